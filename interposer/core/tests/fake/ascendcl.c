/* A minimal libascendcl.so: the public names, over libacl_rt_impl. */
#include <stdint.h>
#include <stddef.h>
int32_t aclrtSetDeviceImpl(int32_t);
int32_t aclrtMallocImpl(void **, size_t, uint32_t);
int32_t aclrtFreeImpl(void *);
int32_t aclrtGetMemInfoImpl(uint32_t, size_t *, size_t *);
int32_t aclrtSetDevice(int32_t device) { return aclrtSetDeviceImpl(device); }
int32_t aclrtMalloc(void **to, size_t size, uint32_t policy) { return aclrtMallocImpl(to, size, policy); }
int32_t aclrtMallocAlign32Impl(void **, size_t, uint32_t);
int32_t aclrtMallocAlign32(void **to, size_t size, uint32_t policy) { return aclrtMallocAlign32Impl(to, size, policy); }
int32_t aclrtFree(void *pointer) { return aclrtFreeImpl(pointer); }
int32_t aclrtGetMemInfo(uint32_t attr, size_t *free, size_t *total) { return aclrtGetMemInfoImpl(attr, free, total); }
