/* Management libraries of a machine whose devices are busy with others' work: -DNVML, -DDCMI, and with -DCLIENT a program
   that asks them what a tenant may not learn. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#if defined(NVML)

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    snprintf(uuid, length, "GPU-%08x-0707-0707-0707-070707070707", device == (void *)1 ? 0x07070707u : 0x08080808u);
    return 0;
}
#define OTHERS(name) int name(void *device, unsigned *count, void *list) { *count = 3; return list == NULL ? 7 : 0; }
OTHERS(nvmlDeviceGetGraphicsRunningProcesses)
OTHERS(nvmlDeviceGetGraphicsRunningProcesses_v2)
OTHERS(nvmlDeviceGetGraphicsRunningProcesses_v3)
OTHERS(nvmlDeviceGetMPSComputeRunningProcesses)
OTHERS(nvmlDeviceGetMPSComputeRunningProcesses_v2)
OTHERS(nvmlDeviceGetMPSComputeRunningProcesses_v3)
int nvmlDeviceGetUtilizationRates(void *device, unsigned *rates) { rates[0] = 77; rates[1] = 66; return 0; }

#elif defined(DCMI)

int dcmi_get_device_die_v2(int card, int device, int kind, unsigned *die) {
    for (int i = 0; i < 5; i++) die[i] = (unsigned)(0x11 * (i + 1) + device);
    return 0;
}
int dcmi_get_device_utilization_rate(int card, int device, int kind, unsigned *rate) { *rate = 60 + (unsigned)kind; return 0; }

#else

#include <dlfcn.h>

int main(void) {
    void *nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW), *dcmi = dlopen("libdcmi.so", RTLD_NOW);
    const char *lists[] = {"Graphics", "MPSCompute"}, *versions[] = {"", "_v2", "_v3"};
    for (long device = 1; device <= 2; device++) {
        printf("gpu%ld", device);
        for (int list = 0; list < 2; list++) {
            for (int version = 0; version < 3; version++) {
                char name[64];
                unsigned count = 9;
                snprintf(name, sizeof name, "nvmlDeviceGet%sRunningProcesses%s", lists[list], versions[version]);
                int code = ((int (*)(void *, unsigned *, void *))dlsym(nvml, name))((void *)device, &count, NULL);
                printf(" %u/%d", count, code);
            }
        }
        unsigned rates[2];
        ((int (*)(void *, unsigned *))dlsym(nvml, "nvmlDeviceGetUtilizationRates"))((void *)device, rates);
        printf(" rates %u %u\n", rates[0], rates[1]);
    }
    for (int device = 0; device < 2; device++) {
        printf("npu%d", device);
        for (int kind = 1; kind <= 13; kind++) {
            unsigned rate = 0;
            ((int (*)(int, int, int, unsigned *))dlsym(dcmi, "dcmi_get_device_utilization_rate"))(0, device, kind, &rate);
            printf(" %u", rate);
        }
        printf("\n");
    }
    return 0;
}

#endif
