/* A program under test: obeys commands on standard input, one answer line each. The first argument says how it
 * finds the runtime: linked, or looked up on a handle at one of three layers. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef int32_t (*set_t)(int32_t);
typedef int32_t (*malloc_t)(void **, size_t, uint32_t);
typedef int32_t (*rt_malloc_t)(void **, uint64_t, uint32_t, uint16_t);
typedef int32_t (*free_t)(void *);
typedef int32_t (*info_t)(uint32_t, size_t *, size_t *);
typedef int32_t (*pool_t)(void **, uint64_t, void *, void *);
typedef int32_t (*pool_free_t)(void *, void *);
typedef int32_t (*physical_t)(void **, size_t, const void *, uint64_t);

static set_t set_device;
typedef int32_t (*launch_t)(void *, uint32_t, const void *, void *, const void *);
static malloc_t acl_malloc;
static malloc_t padding_malloc;
static rt_malloc_t rt_malloc;
static free_t release;
static info_t info;
static physical_t physical;
static free_t release_physical;
static pool_t pool_malloc;
static pool_free_t pool_free;

#ifdef LINKED
int32_t aclrtSetDevice(int32_t);
int32_t aclrtMalloc(void **, size_t, uint32_t);
int32_t aclrtMallocAlign32(void **, size_t, uint32_t);
int32_t aclrtFree(void *);
int32_t aclrtGetMemInfo(uint32_t, size_t *, size_t *);
#endif

__attribute__((unused)) static void *need(void *handle, const char *name) {
    void *found = dlsym(handle, name);
    if (found == NULL) { printf("missing %s: %s\n", name, dlerror()); exit(3); }
    return found;
}
__attribute__((unused)) static void *load(const char *name) {
    void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) { printf("cannot load: %s\n", dlerror()); exit(3); }
    return handle;
}
/* The library with the Impl functions, by generation of CANN. */
__attribute__((unused)) static void *load_impl(void) {
    void *handle = dlopen("libacl_rt_impl.so", RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) handle = dlopen("libascendcl_impl.so", RTLD_NOW | RTLD_LOCAL);
    return handle != NULL ? handle : load("libruntime.so");
}
static void find(const char *how) {
#ifdef LINKED
    (void)how;
    set_device = aclrtSetDevice; acl_malloc = aclrtMallocAlign32; padding_malloc = aclrtMalloc; release = aclrtFree; info = aclrtGetMemInfo;
#else
    if (strcmp(how, "acl") == 0) {
        void *h = load("libascendcl.so");
        set_device = need(h, "aclrtSetDevice"); acl_malloc = need(h, "aclrtMallocAlign32"); padding_malloc = need(h, "aclrtMalloc");
        release = need(h, "aclrtFree"); info = need(h, "aclrtGetMemInfo");
    } else if (strcmp(how, "impl") == 0) {
        void *h = load_impl();
        set_device = need(h, "aclrtSetDeviceImpl"); acl_malloc = need(h, "aclrtMallocAlign32Impl"); padding_malloc = need(h, "aclrtMallocImpl");
        release = need(h, "aclrtFreeImpl"); info = need(h, "aclrtGetMemInfoImpl");
        physical = need(h, "aclrtMallocPhysicalImpl"); release_physical = need(h, "aclrtFreePhysicalImpl");
        pool_malloc = need(h, "aclrtMemPoolMallocAsyncImpl");
    } else {
        void *h = load("libruntime.so");
        set_device = need(h, "rtSetDevice"); rt_malloc = need(h, "rtMalloc");
        release = need(h, "rtFree"); info = need(h, "rtMemGetInfoEx");
        pool_malloc = need(h, "rtMemPoolMallocAsync"); pool_free = need(h, "rtMemPoolFreeAsync");
    }
#endif
}
static int32_t take(void **to, uint64_t size) {
    return rt_malloc != NULL ? rt_malloc(to, size, 0, 0) : acl_malloc(to, size, 0);
}

static void *held[1 << 16];
static int count;

static void *churn(void *seed_) {
    unsigned seed = (unsigned)(uintptr_t)seed_;
    void *mine[8] = {0};
    for (;;) {
        int i = rand_r(&seed) % 8;
        if (mine[i] != NULL) { release(mine[i]); mine[i] = NULL; }
        else if (take(&mine[i], (uint64_t)(1 + rand_r(&seed) % 64) << 20) != 0) mine[i] = NULL;
    }
    return NULL;
}

/* Times of single launches: by the counter of the processor, which costs less than the clock. */
#if defined(__x86_64__)
static inline uint64_t ticks(void) {
    unsigned low, high;
    __asm__ volatile("lfence\nrdtsc\nlfence" : "=a"(low), "=d"(high)::"memory");
    return (uint64_t)high << 32 | low;
}
#else
static inline uint64_t ticks(void) {
    uint64_t at;
    __asm__ volatile("isb\nmrs %0, cntvct_el0\nisb" : "=r"(at)::"memory");
    return at;
}
#endif
static double seconds(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}
struct timing { launch_t launch; unsigned count, batch; uint32_t *times; };
static void *timed(void *timing_) {
    struct timing *timing = timing_;
    for (unsigned i = 0; i < timing->count; i++) {
        uint64_t from = ticks();
        for (unsigned j = 0; j < timing->batch; j++) timing->launch(NULL, 1, NULL, NULL, NULL);
        uint64_t took = ticks() - from;
        timing->times[i] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    }
    return NULL;
}
static int ascending(const void *left, const void *right) {
    uint32_t l = *(const uint32_t *)left, r = *(const uint32_t *)right;
    return (l > r) - (l < r);
}
/* Nanoseconds of a launch, of `number` batches by each of `threads`: p10, p50, p90, p99, p99.9. */
static void quantiles(launch_t launch, unsigned number, unsigned threads, unsigned batch) {
    pthread_t all[64];
    if (threads > 64) threads = 64;
    uint32_t *times = calloc((size_t)number * threads, sizeof *times);
    struct timing timings[64];
    double from = seconds();
    uint64_t begun = ticks();
    for (unsigned i = 0; i < threads; i++) {
        timings[i] = (struct timing){launch, number, batch, times + (size_t)i * number};
        if (i > 0) pthread_create(&all[i], NULL, timed, &timings[i]);
    }
    timed(&timings[0]);
    for (unsigned i = 1; i < threads; i++) pthread_join(all[i], NULL);
    double tick = (seconds() - from) * 1e9 / (double)(ticks() - begun);
    size_t count = (size_t)number * threads;
    qsort(times, count, sizeof *times, ascending);
    const double at[] = {0.1, 0.5, 0.9, 0.99, 0.999};
    for (int i = 0; i < 5; i++) printf("%.1f%c", times[(size_t)((count - 1) * at[i])] * tick / batch, i < 4 ? ' ' : '\n');
    free(times);
}

static void *sleeper(void *unused) {
    for (;;) sleep(1000);
    return unused;
}
static int descriptors(void) {
    int found = 0;
    DIR *all = opendir("/proc/self/fd");
    while (all != NULL && readdir(all) != NULL) found++;
    if (all != NULL) closedir(all);
    return found;
}
static int mappings(void) {
    int found = 0;
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL) found++;
    if (maps != NULL) fclose(maps);
    return found;
}
static void *ask_loop(void *unused) {
    for (;;) { void *none; take(&none, 1ULL << 40); }
    return unused;
}
static void *hold_loop(void *unused) {
    for (;;) {
        void *mine = NULL, *none;
        if (take(&mine, 1 << 20) == 0) { take(&none, 1ULL << 40); release(mine); }
    }
    return unused;
}

int main(int argc, char **argv) {
    char line[256];
    setvbuf(stdout, NULL, _IOLBF, 0);
    find(argc > 1 ? argv[1] : "acl");
    if (argc > 2) line[0] = 0;
    while (fgets(line, sizeof line, stdin) != NULL) {
        char word[32] = "";
        unsigned long long number = 0, second = 0, third = 0;
        sscanf(line, "%31s %llu %llu %llu", word, &number, &second, &third);
        if (strcmp(word, "device") == 0) {
            printf("%d\n", set_device((int32_t)number));
        } else if (strcmp(word, "alloc") == 0) {
            errno = 77;
            int32_t code = take(&held[count], number);
            printf("%d %d\n", code, errno);
            if (code == 0) count++;
        } else if (strcmp(word, "padded") == 0) {
            int32_t code = padding_malloc(&held[count], number, 0);
            printf("%d\n", code);
            if (code == 0) count++;
        } else if (strcmp(word, "fill") == 0) {
            int from = count, code = 0;
            while (count < (1 << 16) && (code = take(&held[count], number)) == 0) count++;
            printf("%d %d\n", count - from, code);
        } else if (strcmp(word, "free") == 0) {
            int32_t code = 0;
            while (number-- > 0 && count > 0) code |= release(held[--count]);
            printf("%d\n", code);
        } else if (strcmp(word, "unknown") == 0) {
            printf("%d\n", release((void *)1));
        } else if (strcmp(word, "info") == 0) {
            size_t left = 0, total = 0;
            int32_t code = info(1, &left, &total);
            printf("%d %zu %zu\n", code, left, total);
        } else if (strcmp(word, "physical") == 0 || strcmp(word, "host") == 0 || strcmp(word, "numa") == 0) {
            struct { uint32_t handle, allocation, attr, id, type; uint64_t reserve; } prop = {0};
            prop.type = word[0] == 'p' ? 1 : word[0] == 'n' ? 4 : 0;
            prop.attr = (uint32_t)second;
            void *handle = NULL;
            int32_t code = physical(&handle, number, &prop, 0);
            printf("%d\n", code);
            if (code == 0 && prop.type == 1) held[count++] = handle;
        } else if (strcmp(word, "freephysical") == 0) {
            printf("%d\n", release_physical(held[--count]));
        } else if (strcmp(word, "fork") == 0) {
            /* The child frees what it inherited, allocates its own and ends. */
            fflush(stdout);
            pid_t child = fork();
            if (child == 0) {
                void *own = NULL;
                int inherited = count > 0 ? release(held[count - 1]) : 0;
                int32_t code = take(&own, number);
                size_t left = 0, total = 0;
                info(1, &left, &total);
                printf("%d %d %zu\n", inherited, code, left);
                fflush(stdout);
                _exit(0);
            }
            waitpid(child, NULL, 0);
        } else if (strcmp(word, "closefds") == 0) {
            for (int fd = 3; fd < 4096; fd++) close(fd);
            printf("ok\n");
        } else if (strcmp(word, "exec") == 0) {
            printf("ok\n");
            fflush(stdout);
            execl("/bin/sleep", "sleep", "1000", (char *)NULL);
        } else if (strcmp(word, "typed") == 0 || strcmp(word, "policy") == 0) {
            /* The size, then the bits of the type or the policy. */
            int32_t code = word[0] == 't' ? rt_malloc(&held[count], number, (uint32_t)second, 0)
                                          : padding_malloc(&held[count], number, (uint32_t)second);
            printf("%d\n", code);
            if (code == 0) count++;
        } else if (strcmp(word, "pool") == 0) {
            int32_t code = pool_malloc(&held[count], number, NULL, NULL);
            printf("%d\n", code);
            if (code == 0) count++;
        } else if (strcmp(word, "poolfree") == 0) {
            printf("%d\n", pool_free(held[--count], NULL));
        } else if (strcmp(word, "nothing") == 0) {
            /* Nothing from the pool, into the place that has the last block's address. */
            printf("%d\n", pool_malloc(&held[count - 1], 0, NULL, NULL));
        } else if (strcmp(word, "limit") == 0) {
            struct rlimit limit = {0};
            getrlimit(RLIMIT_NOFILE, &limit);
            limit.rlim_cur = number;
            printf("%d\n", setrlimit(RLIMIT_NOFILE, &limit));
        } else if (strcmp(word, "count") == 0) {
            printf("%d\n", descriptors());
        } else if (strcmp(word, "chain") == 0) {
            /* Generations, each of which allocates; the last one says what it has open and mapped. */
            fflush(stdout);
            int generation = 0, parent = 0;
            while (generation < (int)number) {
                pid_t child = fork();
                if (child != 0) { waitpid(child, NULL, 0); parent = 1; break; }
                generation++;
                void *own = NULL;
                take(&own, 1 << 20);
            }
            if (!parent) { printf("%d %d\n", descriptors(), mappings()); fflush(stdout); }
            if (generation > 0) _exit(0);
        } else if (strcmp(word, "leave") == 0) {
            /* Closes all files; the first thread ends, another one goes on. */
            pthread_t other;
            pthread_create(&other, NULL, sleeper, NULL);
            for (int fd = 3; fd < 4096; fd++) close(fd);
            printf("ok\n");
            fflush(stdout);
            pthread_exit(NULL);
        } else if (strcmp(word, "press") == 0) {
            /* Threads that are refused all the time, and some that hold a little now and then. */
            for (int i = 0; i < 4; i++) {
                pthread_t other;
                pthread_create(&other, NULL, i % 2 ? hold_loop : ask_loop, NULL);
            }
            printf("ok\n");
        } else if (strcmp(word, "bench") == 0) {
            struct timespec from, to;
            void *one = NULL;
            clock_gettime(CLOCK_MONOTONIC, &from);
            for (unsigned long long i = 0; i < number; i++) { take(&one, 1 << 20); release(one); }
            clock_gettime(CLOCK_MONOTONIC, &to);
            printf("%.1f\n", ((to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec)) / number);
        } else if (strcmp(word, "launches") == 0) {
            struct timespec from, to;
            launch_t launch = (launch_t)need(load("libruntime.so"), "rtLaunchKernelByFuncHandleV3");
            clock_gettime(CLOCK_MONOTONIC, &from);
            for (unsigned long long i = 0; i < number; i++) launch(NULL, 1, NULL, NULL, NULL);
            clock_gettime(CLOCK_MONOTONIC, &to);
            printf("%.1f\n", ((to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec)) / number);
        } else if (strcmp(word, "first") == 0) {
            /* Microseconds of the processor, and of the clock, for one call. */
            struct timespec from, to;
            clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
            double begun = seconds();
            set_device(0);
            double took = seconds() - begun;
            clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &to);
            printf("%.1f %.1f\n", (to.tv_sec - from.tv_sec) * 1e6 + (to.tv_nsec - from.tv_nsec) / 1e3, took * 1e6);
        } else if (strcmp(word, "quantiles") == 0) {
            /* Batches of each thread, threads, launches of a batch. */
            launch_t launch = (launch_t)need(load("libruntime.so"), "rtLaunchKernelByFuncHandleV3");
            quantiles(launch, (unsigned)number, (unsigned)second, (unsigned)third);
        } else if (strcmp(word, "churn") == 0) {
            printf("ok\n");
            pthread_t other;
            pthread_create(&other, NULL, churn, (void *)(uintptr_t)(number + 1));
            churn((void *)(uintptr_t)number);
        } else {
            printf("what?\n");
        }
    }
    return 0;
}
