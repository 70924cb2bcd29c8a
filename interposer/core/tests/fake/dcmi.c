// Asks the management library of Ascend what a monitoring program asks: by names, of the place card 0, device 0.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>

struct memory {
    uint64_t size, available;
    uint32_t frequency;
    unsigned long page, pages, pages_free;
    uint32_t utilization;
    uint8_t reserve[60];
};
struct hbm {
    uint64_t size;
    uint32_t frequency;
    uint64_t usage;
    int temperature;
    uint32_t bandwidth;
};
struct process {
    int pid;
    unsigned long bytes;
};

int main(int count, char **arguments) {
    int card = 0, device = count > 1 ? arguments[1][0] - '0' : 0;
    void *library = dlopen("libdcmi.so", RTLD_LAZY | RTLD_GLOBAL);
    if (!library) {
        printf("failed %s\n", dlerror());
        return 1;
    }
    int (*init)(void) = (int (*)(void))dlsym(library, "dcmi_init");
    int (*get_memory)(int, int, struct memory *) =
        (int (*)(int, int, struct memory *))dlsym(library, "dcmi_get_device_memory_info_v3");
    int (*get_hbm)(int, int, struct hbm *) = (int (*)(int, int, struct hbm *))dlsym(library, "dcmi_get_device_hbm_info");
    int (*get_rate)(int, int, int, unsigned *) =
        (int (*)(int, int, int, unsigned *))dlsym(library, "dcmi_get_device_utilization_rate");
    int (*get_processes)(int, int, struct process *, int *) =
        (int (*)(int, int, struct process *, int *))dlsym(library, "dcmi_get_device_resource_info");
    int code = init();
    struct memory memory = {0};
    struct hbm hbm = {0};
    struct process processes[32] = {{0}};
    int number = 0;
    unsigned of_memory = 777, of_cores = 777;
    code |= get_memory(card, device, &memory);
    code |= get_hbm(card, device, &hbm);
    code |= get_rate(card, device, 6, &of_memory);
    code |= get_rate(card, device, 2, &of_cores);
    code |= get_processes(card, device, processes, &number);
    printf("dcmi code=%d size=%llu available=%llu percent=%u pages=%lu free=%lu hbm=%llu usage=%llu memory=%u cores=%u "
           "count=%d\n",
           code, (unsigned long long)memory.size, (unsigned long long)memory.available, memory.utilization, memory.pages,
           memory.pages_free, (unsigned long long)hbm.size, (unsigned long long)hbm.usage, of_memory, of_cores, number);
    for (int i = 0; i < number; i++)
        printf("process pid=%d bytes=%lu\n", processes[i].pid, processes[i].bytes);
    return code;
}
