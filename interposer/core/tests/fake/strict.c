/* A CUDA driver that forgives nothing: streams, events and contexts are remembered after their end, and whoever uses one
   then, or puts an event where it does not belong, is told on. One GPU that executes in order. Threads other than the
   first are slow here, so that what they do meets the ends of things. With -DCLIENT, programs that end and begin such
   things beside work. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>

typedef void *P;
typedef uint64_t U64;
typedef uint32_t U32;

static U64 now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000ull + at.tv_nsec;
}

static void pass(U64 nanoseconds) {
    struct timespec length = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    nanosleep(&length, NULL);
}

#ifndef CLIENT

enum { CONTEXT = 0x51, STREAM, EVENT };

struct thing {
    int kind, alive, capturing, spoiled;
    struct thing *context;
    U64 at;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct thing *primary;
static int holders, wrongs;
static char first_wrong[128];
static U64 free_at, busy;
static int capturing;
static __thread struct thing *stack[8];
static __thread int depth;
/* The legacy default streams of all contexts are one here, and wait for all others; each thread has one of its own. */
static struct thing defaults = {STREAM, 1, 0, 0, NULL, 0};
static __thread struct thing own_default = {STREAM, 1, 0, 0, NULL, 0};

static void wrong(const char *what, const char *where) {
    if (wrongs++ == 0) snprintf(first_wrong, sizeof first_wrong, "%s in %s", what, where);
}

static struct thing *current(void) { return stack[depth]; }

static struct thing *make(int kind, struct thing *context) {
    struct thing *made = calloc(1, sizeof *made);
    made->kind = kind;
    made->alive = 1;
    made->context = context;
    return made;
}

static struct thing *checked(P handle, int kind, const char *where) {
    struct thing *thing = kind == STREAM && (uintptr_t)handle == 2  ? &own_default
                          : kind == STREAM && (uintptr_t)handle < 2 ? &defaults
                                                                    : handle;
    if (thing == NULL || thing->kind != kind) {
        wrong("nothing of that kind", where);
        return NULL;
    }
    if (!thing->alive || (thing->context != NULL && !thing->context->alive)) {
        wrong(kind == STREAM ? "a stream that has ended" : kind == EVENT ? "an event that has ended" : "a context that has ended", where);
        return NULL;
    }
    return thing;
}

#define LOCKED pthread_mutex_lock(&lock)
#define DONE(code) do { int code_ = (code); pthread_mutex_unlock(&lock); return code_; } while (0)

static int hangs;
void strict_hang(int on) { __atomic_store_n(&hangs, on, __ATOMIC_RELAXED); }

static void others_are_slow(void) {
    if (syscall(SYS_gettid) != getpid()) pass(300000);
}

void strict_told(char *text, size_t size, int *count, U64 *worked) {
    LOCKED;
    snprintf(text, size, "%s", first_wrong);
    *count = wrongs;
    *worked = busy;
    pthread_mutex_unlock(&lock);
}

int cuInit(U32 flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGetUuid(char *uuid, int device) { memset(uuid, 7 + device, 16); return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return current() == NULL ? 201 : 0; }
int cuCtxGetCurrent(P *context) { *context = current(); return 0; }
int cuCtxSetCurrent(P context) {
    LOCKED;
    if (context != NULL && checked(context, CONTEXT, __func__) == NULL) DONE(709);
    stack[depth] = context;
    DONE(0);
}
int cuCtxPushCurrent_v2(P context) {
    LOCKED;
    if (checked(context, CONTEXT, __func__) == NULL) DONE(709);
    stack[++depth] = context;
    DONE(0);
}
int cuCtxPopCurrent_v2(P *context) { *context = stack[depth--]; return 0; }
int cuCtxCreate_v2(P *context, U32 flags, int device) {
    LOCKED;
    *context = make(CONTEXT, NULL);
    stack[++depth] = *context;
    DONE(0);
}
int cuCtxDestroy_v2(P context) {
    LOCKED;
    struct thing *doomed = checked(context, CONTEXT, __func__);
    if (doomed != NULL) doomed->alive = 0;
    if (depth > 0 && stack[depth] == doomed) depth--;
    DONE(0);
}
int cuDevicePrimaryCtxRetain(P *context, int device) {
    LOCKED;
    if (holders++ == 0) primary = make(CONTEXT, NULL);
    *context = primary;
    DONE(0);
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    LOCKED;
    if (--holders == 0) primary->alive = 0;
    DONE(0);
}
int cuStreamCreate(P *stream, U32 flags) {
    LOCKED;
    *stream = make(STREAM, current());
    DONE(0);
}
int cuStreamDestroy_v2(P stream) {
    LOCKED;
    struct thing *doomed = checked(stream, STREAM, __func__);
    if (doomed != NULL) doomed->alive = 0;
    DONE(0);
}
int cuStreamGetCtx(P stream, P *context) {
    others_are_slow();
    LOCKED;
    struct thing *asked = checked(stream, STREAM, __func__);
    *context = asked == NULL ? NULL : asked->context;
    DONE(asked == NULL ? 400 : 0);
}
int cuStreamIsCapturing(P stream, int *status) {
    others_are_slow();
    LOCKED;
    struct thing *asked = checked(stream, STREAM, __func__);
    /* A capture anywhere hides the legacy stream. */
    if (asked == &defaults && capturing > 0) DONE(906);
    *status = asked != NULL && asked->capturing;
    DONE(0);
}
int cuThreadExchangeStreamCaptureMode(int *mode) { return 0; }
int cuStreamBeginCapture_v2(P stream, int mode) {
    LOCKED;
    struct thing *captured = checked(stream, STREAM, __func__);
    captured->capturing = 1;
    capturing++;
    captured->spoiled = 0;
    DONE(0);
}
int cuStreamEndCapture(P stream, P *graph) {
    LOCKED;
    struct thing *captured = checked(stream, STREAM, __func__);
    captured->capturing = 0;
    capturing--;
    *graph = captured;
    DONE(captured->spoiled ? 901 : 0);
}
int cuStreamSynchronize(P stream) {
    LOCKED;
    struct thing *asked = checked(stream, STREAM, __func__);
    U64 until = asked == NULL ? 0 : asked == &defaults ? free_at : asked->at;
    pthread_mutex_unlock(&lock);
    while (now() < until) pass(until - now());
    return 0;
}
int cuEventCreate(P *event, U32 flags) {
    LOCKED;
    if (current() == NULL) DONE(201);
    *event = make(EVENT, current());
    DONE(0);
}
int cuEventDestroy_v2(P event) {
    LOCKED;
    struct thing *doomed = checked(event, EVENT, __func__);
    if (doomed != NULL) doomed->alive = 0;
    DONE(0);
}
int cuEventRecord(P event, P stream) {
    others_are_slow();
    LOCKED;
    struct thing *recorded = checked(event, EVENT, __func__), *in = checked(stream, STREAM, __func__);
    if (recorded == NULL || in == NULL) DONE(400);
    if (in != &defaults && in != &own_default && recorded->context != in->context) {
        wrong("an event in another context's stream", __func__);
        DONE(400);
    }
    if (in->capturing) {
        wrong("an event of ours in a capture", __func__);
        in->spoiled = 1;
    }
    U64 until = in == &defaults ? free_at : in->at;
    recorded->at = until > now() ? until : now();
    DONE(0);
}
int cuEventQuery(P event) {
    while (syscall(SYS_gettid) != getpid() && __atomic_load_n(&hangs, __ATOMIC_RELAXED)) pass(1000000);
    LOCKED;
    struct thing *asked = checked(event, EVENT, __func__);
    DONE(asked != NULL && asked->at > now() ? 600 : 0);
}
int cuEventElapsedTime(float *milliseconds, P from, P to) {
    LOCKED;
    struct thing *first = checked(from, EVENT, __func__), *second = checked(to, EVENT, __func__);
    if (first == NULL || second == NULL || first->context != second->context) {
        wrong("events of two contexts compared", __func__);
        DONE(400);
    }
    *milliseconds = (float)((double)(int64_t)(second->at - first->at) / 1e6);
    DONE(0);
}
/* The function is the kernel's duration; `extra` how long the call itself takes before the kernel is queued. */
int cuLaunchKernel(P function, U32 a, U32 b, U32 c, U32 d, U32 e, U32 f, U32 shared, P stream, P *parameters, P *extra) {
    if (extra != NULL) pass((U64)(uintptr_t)extra);
    LOCKED;
    struct thing *in = checked(stream, STREAM, __func__);
    if (in == NULL) DONE(400);
    if (in->capturing) DONE(0);
    U64 begin = free_at > now() ? free_at : now();
    free_at = begin + (U64)(uintptr_t)function;
    busy += (U64)(uintptr_t)function;
    in->at = free_at;
    DONE(0);
}

int cuLaunchKernel_ptsz(P function, U32 a, U32 b, U32 c, U32 d, U32 e, U32 f, U32 shared, P stream, P *parameters, P *extra) {
    return cuLaunchKernel(function, a, b, c, d, e, f, shared, stream == NULL ? (P)2 : stream, parameters, extra);
}
int cuStreamSynchronize_ptsz(P stream) { return cuStreamSynchronize(stream == NULL ? (P)2 : stream); }
/* A graph is a duration too. How far the queue reached at most when one was launched is remembered. */
static U64 deepest;
U64 strict_deepest(void) { return deepest; }
int cuGraphLaunch(P graph, P stream) {
    int code = cuLaunchKernel(graph, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
    LOCKED;
    U64 ahead = free_at - now();
    if (ahead > deepest) deepest = ahead;
    DONE(code);
}

#else

#include <dlfcn.h>

static P library;
#define CALL(name, types, ...) ((int(*) types)dlsym(library, #name))(__VA_ARGS__)

static int failed;

static void launch_in(P stream, U64 nanoseconds, U64 call) {
    failed |= CALL(cuLaunchKernel, (P, U32, U32, U32, U32, U32, U32, U32, P, P *, P *), (P)nanoseconds, 1, 1, 1, 1, 1, 1, 0,
                   stream, NULL, (P)call);
}
static P stream(void) {
    P made = NULL;
    failed |= CALL(cuStreamCreate, (P *, U32), &made, 1);
    return made;
}
static void wait_for(P stream) { failed |= CALL(cuStreamSynchronize, (P), stream); }
static void end_stream(P stream) { failed |= CALL(cuStreamDestroy_v2, (P), stream); }
static void some_time(int round) { pass((U64)(round * 37 % 50) * 20000); }

/* Streams that end while the helper thread looks after what was launched there. */
static void streams(void) {
    for (int round = 0; round < 150; round++) {
        P one = stream();
        launch_in(one, 100000, 0);
        wait_for(one);
        some_time(round);
        end_stream(one);
    }
}

/* Contexts that come and go beside the one that is in use, with launches that need no decision. */
static void contexts(void) {
    P own = stream();
    for (int round = 0; round < 60; round++) {
        P context = NULL;
        for (int i = 0; i < 4; i++) launch_in(own, 100000, 0);
        failed |= CALL(cuCtxCreate_v2, (P *, U32, int), &context, 0, 0);
        P other = stream();
        launch_in(other, 100000, 0);
        if (round % 2) some_time(round);
        failed |= CALL(cuCtxDestroy_v2, (P), context);
        launch_in(own, 100000, 0);
        some_time(round);
    }
}

/* Two contexts in turns. */
static void mixed(void) {
    P first = NULL, second = NULL, context = NULL;
    first = stream();
    failed |= CALL(cuCtxCreate_v2, (P *, U32, int), &context, 0, 0);
    second = stream();
    for (int round = 0; round < 200; round++) {
        launch_in(first, 500000, 0);
        launch_in(second, 500000, 0);
        if (round % 20 == 0) wait_for(second);
    }
    wait_for(second);
}

/* Work, and then the capture of more on the same stream, as frameworks warm up. */
static void captures(void) {
    P one = stream(), graph = NULL;
    for (int round = 0; round < 150; round++) {
        launch_in(one, 100000, 0);
        some_time(round);
        failed |= CALL(cuStreamBeginCapture_v2, (P, int), one, 0);
        pass(400000);
        launch_in(one, 100000, 0);
        failed |= CALL(cuStreamEndCapture, (P, P *), one, &graph);
    }
    wait_for(one);
}

/* A library that holds the primary context for a moment, again and again. */
static void holders(void) {
    P one = stream(), context = NULL;
    for (int round = 0; round < 200; round++) {
        launch_in(one, 1000000, 0);
        failed |= CALL(cuDevicePrimaryCtxRetain, (P *, int), &context, 0);
        failed |= CALL(cuDevicePrimaryCtxRelease_v2, (int), 0);
    }
    wait_for(one);
}

/* Calls that take longer than an idle lease is kept before their kernel is queued. */
static void slow(void) {
    P one = stream();
    for (int round = 0; round < 60; round++) {
        launch_in(one, 2000000, 5000000);
        wait_for(one);
    }
}

/* Threads with long kernels and a small share: they wait for seconds, and for each other. */
static void *greedy(void *context) {
    CALL(cuCtxSetCurrent, (P), context);
    P one = stream();
    U64 begun = now();
    while (now() - begun < 5000000000) launch_in(one, 30000000, 0);
    return NULL;
}
static void threads(void) {
    P context = NULL;
    pthread_t all[4];
    CALL(cuCtxGetCurrent, (P *), &context);
    for (int i = 0; i < 4; i++) pthread_create(&all[i], NULL, greedy, context);
    for (int i = 0; i < 4; i++) pthread_join(all[i], NULL);
}

/* The helper thread's question for an event does not return for a while. */
static void hang(void) {
    void (*let)(int) = dlsym(library, "strict_hang");
    P one = stream();
    launch_in(one, 20000000, 0);
    let(1);
    pass(30000000);
    U64 begun = now();
    for (int i = 0; i < 20; i++) launch_in(one, 1000000, 0);
    U64 all = now() - begun;
    begun = now();
    for (int i = 0; i < 20; i++) launch_in(one, 1000000, 0);
    printf("first=%llu second=%llu ", (unsigned long long)all / 1000000, (unsigned long long)(now() - begun) / 1000000);
    let(0);
    wait_for(one);
    pass(100000000);
    for (int i = 0; i < 100; i++) launch_in(one, 1000000, 0);
    wait_for(one);
}

/* One long kernel at a time in the calling thread's default stream, which no other thread can put anything into. */
static void own(void) {
    for (int round = 0; round < 60; round++) {
        failed |= CALL(cuLaunchKernel_ptsz, (P, U32, U32, U32, U32, U32, U32, U32, P, P *, P *), (P)10000000, 1, 1, 1, 1, 1, 1,
                       0, NULL, NULL, NULL);
        failed |= CALL(cuStreamSynchronize_ptsz, (P), NULL);
    }
}

/* The same while another stream of the same thread is in capture, which hides the legacy stream. */
static void beside(void) {
    P one = stream(), graph = NULL;
    for (int round = 0; round < 30; round++) {
        pass(2000000);
        failed |= CALL(cuStreamBeginCapture_v2, (P, int), one, 0);
        failed |= CALL(cuLaunchKernel_ptsz, (P, U32, U32, U32, U32, U32, U32, U32, P, P *, P *), (P)10000000, 1, 1, 1, 1, 1, 1,
                       0, NULL, NULL, NULL);
        failed |= CALL(cuStreamSynchronize_ptsz, (P), NULL);
        failed |= CALL(cuStreamEndCapture, (P, P *), one, &graph);
    }
}

/* A thread for each kernel, which ends before the kernel does; the next one may be where it was. */
static void *job(void *context) {
    CALL(cuCtxSetCurrent, (P), context);
    failed |= CALL(cuLaunchKernel_ptsz, (P, U32, U32, U32, U32, U32, U32, U32, P, P *, P *), (P)5000000, 1, 1, 1, 1, 1, 1, 0,
                   NULL, NULL, NULL);
    return NULL;
}
static void jobs(void) {
    P context = NULL;
    CALL(cuCtxGetCurrent, (P *), &context);
    for (int round = 0; round < 100; round++) {
        pthread_t one;
        pthread_create(&one, NULL, job, context);
        pthread_join(one, NULL);
    }
    wait_for(NULL);
}

/* A thread with graphs beside one with kernels: neither leaves room in the queue for the other. */
static int kernels_made, graphs_made;
static U64 until;
static void *kernel_thread(void *context) {
    CALL(cuCtxSetCurrent, (P), context);
    P one = stream();
    for (; now() < until; kernels_made++) launch_in(one, 100000, 0);
    return NULL;
}
static void both(void) {
    P one = stream(), context = NULL;
    pthread_t other;
    CALL(cuCtxGetCurrent, (P *), &context);
    until = now() + 3000000000;
    pthread_create(&other, NULL, kernel_thread, context);
    for (; now() < until; graphs_made++) failed |= CALL(cuGraphLaunch, (P, P), (P)20000000, one);
    pthread_join(other, NULL);
    printf("kernels=%d graphs=%d ", kernels_made, graphs_made);
}

/* Work, and the capture of another stream beside it, which hides what is in the default stream. */
static void hidden(void) {
    P one = stream(), graph = NULL;
    for (int round = 0; round < 30; round++) {
        launch_in(NULL, 20000000, 0);
        failed |= CALL(cuStreamBeginCapture_v2, (P, int), one, 0);
        pass(10000000);
        failed |= CALL(cuStreamEndCapture, (P, P *), one, &graph);
        wait_for(NULL);
    }
}

/* A launch and a wait, again and again. */
static void steps(void) {
    P one = stream();
    for (int round = 0; round < 1500; round++) {
        for (int i = 0; i < 4; i++) launch_in(one, 200000, 0);
        wait_for(one);
    }
}

/* Short kernels, which are allowed by the dozen, and then long graphs. */
static void graphs(void) {
    P one = stream();
    for (int round = 0; round < 8; round++) {
        for (int i = 0; i < 300; i++) launch_in(one, 10000, 0);
        for (int i = 0; i < 4; i++) failed |= CALL(cuGraphLaunch, (P, P), (P)50000000, one);
    }
    wait_for(one);
    printf("deepest=%llu ", (unsigned long long)((U64(*)(void))dlsym(library, "strict_deepest"))());
}

/* Launches one after the other, and says so. */
static void paced(void) {
    P one = stream();
    for (;;) {
        launch_in(one, 30000000, 0);
        printf("launched\n");
        fflush(stdout);
        wait_for(one);
    }
}

int main(int count, char **arguments) {
    P context = NULL;
    library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL || count < 2) return 2;
    CALL(cuInit, (U32), 0);
    CALL(cuDevicePrimaryCtxRetain, (P *, int), &context, 0);
    CALL(cuCtxSetCurrent, (P), context);
    static const struct { const char *name; void (*run)(void); } all[] = {
        {"streams", streams}, {"contexts", contexts}, {"mixed", mixed}, {"captures", captures}, {"holders", holders}, {"slow", slow}, {"threads", threads}, {"own", own}, {"jobs", jobs}, {"beside", beside}, {"both", both}, {"hidden", hidden}, {"steps", steps}, {"graphs", graphs}, {"hang", hang}, {"paced", paced},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (strcmp(all[i].name, arguments[1])) continue;
        all[i].run();
        pass(20000000);
        char text[128];
        int wrongs = 0;
        U64 worked = 0;
        ((void (*)(char *, size_t, int *, U64 *))dlsym(library, "strict_told"))(text, sizeof text, &wrongs, &worked);
        printf("failed=%d wrongs=%d worked=%llu %s\n", failed, wrongs, (unsigned long long)worked, text);
        return 0;
    }
    return 2;
}

#endif
