/* A program that does what programs do to libraries that did not expect it: threads that allocate while others fork,
 * another user, a pid that was somebody else's. Obeys commands on standard input, one answer line each. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int32_t (*set_device)(int32_t);
static int32_t (*take)(void **, uint64_t, uint32_t, uint16_t);
static int32_t (*release)(void *);
static int32_t (*info)(uint32_t, size_t *, size_t *);
static int32_t (*launch)(void *, uint32_t, const void *, void *, const void *);

static volatile int stop;
static void *work(void *unused) {
    while (!stop) {
        void *mine = NULL;
        if (take(&mine, 1 << 20, 0, 0) == 0) release(mine);
        launch(NULL, 1, NULL, NULL, NULL);
    }
    return unused;
}

/* Children that allocate, launch and end, while threads do the same: how many ended as they should. */
static int forks(int count) {
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    int good = 0;
    stop = 0;
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, work, NULL);
    for (int i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(30);
            void *mine = NULL;
            int32_t code = take(&mine, 1 << 20, 0, 0);
            code |= launch(NULL, 1, NULL, NULL, NULL);
            code |= release(mine);
            code |= take(&mine, 1 << 20, 0, 0);
            _exit(code == 0 ? 0 : 1);
        }
        int status = -1;
        waitpid(child, &status, 0);
        good += status == 0;
    }
    stop = 1;
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    return good;
}

/* Runs a program under a pid of our choice, and as long as it. */
static int again(pid_t pid, char **program) {
    struct clone_args args = {0};
    args.exit_signal = SIGCHLD;
    args.set_tid = (uintptr_t)&pid;
    args.set_tid_size = 1;
    for (int try = 0; try < 1000; try++) {
        long child = syscall(SYS_clone3, &args, sizeof args);
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            execvp(program[0], program);
            _exit(127);
        }
        if (child > 0) {
            waitpid((pid_t)child, NULL, 0);
            return 0;
        }
        /* The last one may not be waited for yet. */
        if (errno != EEXIST) break;
        usleep(1000);
    }
    printf("cannot: %s\n", strerror(errno));
    return 1;
}

int main(int argc, char **argv) {
    char line[256];
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 3 && strcmp(argv[1], "again") == 0) return again((pid_t)atoi(argv[2]), argv + 3);
    void *runtime = dlopen("libruntime.so", RTLD_NOW | RTLD_LOCAL);
    if (runtime == NULL) { printf("cannot load: %s\n", dlerror()); return 3; }
    set_device = (int32_t (*)(int32_t))dlsym(runtime, "rtSetDevice");
    take = (int32_t (*)(void **, uint64_t, uint32_t, uint16_t))dlsym(runtime, "rtMalloc");
    release = (int32_t (*)(void *))dlsym(runtime, "rtFree");
    info = (int32_t (*)(uint32_t, size_t *, size_t *))dlsym(runtime, "rtMemGetInfoEx");
    launch = (int32_t (*)(void *, uint32_t, const void *, void *, const void *))dlsym(runtime, "rtLaunchKernelByFuncHandleV3");
    void *held[64];
    int count = 0;
    while (fgets(line, sizeof line, stdin) != NULL) {
        char word[32] = "";
        unsigned long long number = 0;
        sscanf(line, "%31s %llu", word, &number);
        if (strcmp(word, "device") == 0) printf("%d\n", set_device((int32_t)number));
        else if (strcmp(word, "alloc") == 0) {
            int32_t code = take(&held[count], number, 0, 0);
            printf("%d\n", code);
            if (code == 0) count++;
        } else if (strcmp(word, "free") == 0) printf("%d\n", release(held[--count]));
        else if (strcmp(word, "info") == 0) {
            size_t left = 0, total = 0;
            int32_t code = info(1, &left, &total);
            printf("%d %zu %zu\n", code, left, total);
        } else if (strcmp(word, "setuid") == 0) printf("%d\n", setgid((gid_t)number) | setuid((uid_t)number));
        else if (strcmp(word, "forks") == 0) printf("%d\n", forks((int)number));
        else if (strcmp(word, "pid") == 0) printf("%d\n", (int)getpid());
        else if (strcmp(word, "closefds") == 0) { for (int fd = 3; fd < 4096; fd++) close(fd); printf("ok\n"); }
        else if (strcmp(word, "launches") == 0) {
            while (number-- > 0) launch(NULL, 1, NULL, NULL, NULL);
            printf("ok\n");
        } else printf("what?\n");
    }
    return 0;
}
