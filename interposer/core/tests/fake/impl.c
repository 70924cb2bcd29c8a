/* A minimal libacl_rt_impl.so over libruntime, through the procedure linkage table as the vendor's. */
#include <stdint.h>
#include <stddef.h>
#include <stdlib.h>
int32_t rtSetDevice(int32_t);
int32_t rtMalloc(void **, uint64_t, uint32_t, uint16_t);
int32_t rtFree(void *);
int32_t rtMallocPhysical(void **, size_t, void *, uint64_t);
int32_t rtFreePhysical(void *);
int32_t rtMemGetInfoEx(uint32_t, size_t *, size_t *);

int32_t rtMemPoolMallocAsync(void **, uint64_t, void *, void *);
int32_t aclrtSetDeviceImpl(int32_t device) {
    /* Callbacks that programs register for a device run inside. */
    void *callback = NULL;
    if (getenv("FAKE_CALLBACK") != NULL) rtMalloc(&callback, 1 << 20, 0, 0);
    return rtSetDevice(device);
}
int32_t aclrtMemPoolMallocAsyncImpl(void **to, size_t size, void *pool, void *stream) {
    return size == 0 ? 0 : rtMemPoolMallocAsync(to, size, pool, stream);
}
int32_t aclrtMallocImpl(void **to, size_t size, uint32_t policy) { (void)policy; return rtMalloc(to, size, 0, 0); }
int32_t aclrtMallocAlign32Impl(void **to, size_t size, uint32_t policy) { (void)policy; return rtMalloc(to, size, 0, 0); }
int32_t aclrtFreeImpl(void *pointer) { return rtFree(pointer); }
struct acl_prop { uint32_t handle, allocation, attr, id, type; uint64_t reserve; };
int32_t aclrtMallocPhysicalImpl(void **handle, size_t size, const struct acl_prop *prop, uint64_t flags) {
    uint32_t drv[8] = {prop->type, prop->id};
    return rtMallocPhysical(handle, size, drv, flags);
}
int32_t aclrtFreePhysicalImpl(void *handle) { return rtFreePhysical(handle); }
int32_t aclrtGetMemInfoImpl(uint32_t attr, size_t *free, size_t *total) { return rtMemGetInfoEx(attr, free, total); }
