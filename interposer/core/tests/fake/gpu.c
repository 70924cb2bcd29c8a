/* Work on a GPU. */
#include "gpu.h"

#include <time.h>

/* A kernel that takes so long: in the stand-in driver a function is a duration. */
static int launch(P stream, U64 nanoseconds) {
    return CALL(cuLaunchKernel, (P, U32, U32, U32, U32, U32, U32, U32, P, P *, P *), (P)nanoseconds, 1, 1, 1, 1, 1, 1,
                0, stream, NULL, NULL);
}

/* A capture in the strictest mode beside work that our helper thread looks after. */
static void capture(void) {
    P busy = NULL, other = NULL, graph = NULL;
    CALL(cuStreamCreate, (P *, U32), &busy, 1);
    CALL(cuStreamCreate, (P *, U32), &other, 1);
    int codes[4] = {0};
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 5; i++) codes[0] |= launch(busy, 1000000);
        codes[1] |= CALL(cuStreamBeginCapture_v2, (P, int), other, 0);
        for (int i = 0; i < 100; i++) codes[0] |= launch(other, 1000000);
        usleep(10000);
        codes[2] |= CALL(cuStreamEndCapture, (P, P *), other, &graph);
        codes[3] |= CALL(cuGraphDestroy, (P), graph);
    }
    codes[0] |= CALL(cuStreamSynchronize, (P), busy);
    printf("capture %d %d %d %d\n", codes[0], codes[1], codes[2], codes[3]);
}

/* Streams and contexts that end while work of theirs is queued, and new ones after them. */
static void endings(void) {
    int codes[4] = {0};
    for (int round = 0; round < 30; round++) {
        P context = NULL, stream = NULL;
        codes[0] |= CALL(cuCtxCreate_v2, (P *, U32, int), &context, 0, 0);
        codes[1] |= CALL(cuStreamCreate, (P *, U32), &stream, 1);
        for (int i = 0; i < 3; i++) codes[2] |= launch(i % 2 ? NULL : stream, 1000000);
        if (round % 3 == 0) codes[1] |= CALL(cuStreamDestroy_v2, (P), stream);
        if (round % 3 == 1) usleep(3000);
        codes[3] |= CALL(cuCtxDestroy_v2, (P), context);
    }
    printf("endings %d %d %d %d\n", codes[0], codes[1], codes[2], codes[3]);
}

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

/* Busy on the calling thread's default stream, which no other thread can put anything into. */
static void own(void) {
    double begin = now(), took = 0;
    int launched = 0, code = 0;
    while (took < 4) {
        for (int i = 0; i < 8; i++, launched++) {
            code |= CALL(cuLaunchKernel_ptsz, (P, U32, U32, U32, U32, U32, U32, U32, P, P *, P *), (P)2000000, 1, 1, 1,
                         1, 1, 1, 0, NULL, NULL, NULL);
        }
        code |= CALL(cuStreamSynchronize_ptsz, (P), NULL);
        took = now() - begin;
    }
    printf("own code=%d share=%.1f\n", code, launched * 0.2 / took);
}

int main(int count, char **arguments) {
    static const struct part all[] = {
        {"capture", capture},
        {"endings", endings},
        {"own", own},
        {NULL, NULL},
    };
    return do_part(count, arguments, all);
}
