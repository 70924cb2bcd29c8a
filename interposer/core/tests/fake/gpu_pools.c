/* Memory of a GPU that is given in stream order. */
#include "gpu.h"

#include <pthread.h>

/* Memory in stream order, whatever is current. */
static void pools(void) {
    P contexts[2], streams[2], pool = NULL;
    U64 address = 0, all[8];
    for (int i = 0; i < 2; i++) {
        CALL(cuDevicePrimaryCtxRetain, (P *, int), &contexts[i], i);
        CALL(cuCtxSetCurrent, (P), contexts[i]);
        CALL(cuStreamCreate, (P *, U32), &streams[i], 1);
    }
    CALL(cuCtxSetCurrent, (P), contexts[0]);
    tell_both("begin", 0, contexts);
    int code = CALL(cuMemAllocAsync, (U64 *, size_t, P), &all[0], 32 << 20, streams[1]);
    tell_both("the other's stream", code, contexts);
    code = CALL(cuMemAllocAsync, (U64 *, size_t, P), &all[1], 32 << 20, NULL);
    tell_both("no stream", code, contexts);
    CALL(cuCtxSetCurrent, (P), NULL);
    code = CALL(cuMemAllocAsync, (U64 *, size_t, P), &all[2], 32 << 20, streams[1]);
    tell_both("no context", code, contexts);
    CALL(cuCtxSetCurrent, (P), contexts[0]);
    CALL(cuDeviceGetDefaultMemPool, (P *, int), &pool, 1);
    code = CALL(cuMemAllocFromPoolAsync, (U64 *, size_t, P, P), &all[3], 32 << 20, pool, streams[0]);
    tell_both("the other's pool", code, contexts);
    struct pool properties = {1, 0, 1, 1, NULL, 0, {0}};
    code = CALL(cuMemPoolCreate, (P *, void *), &pool, &properties);
    code |= CALL(cuMemAllocFromPoolAsync, (U64 *, size_t, P, P), &all[4], 32 << 20, pool, streams[0]);
    tell_both("a pool there", code, contexts);
    code = CALL(cuMemAllocFromPoolAsync, (U64 *, size_t, P, P), &address, 128 << 20, pool, streams[0]);
    tell_both("too much", code, contexts);
    CALL(cuDeviceGetMemPool, (P *, int), &pool, 0);
    code = CALL(cuMemAllocFromPoolAsync, (U64 *, size_t, P, P), &all[5], 32 << 20, pool, streams[1]);
    tell_both("our own", code, contexts);
    properties.where = 2;
    code = CALL(cuMemPoolCreate, (P *, void *), &pool, &properties);
    code |= CALL(cuMemAllocFromPoolAsync, (U64 *, size_t, P, P), &address, 999 << 20, pool, streams[1]);
    tell_both("the host's", code, contexts);
    for (int i = 0; i < 6; i++) code |= CALL(cuMemFreeAsync, (U64, P), all[i], streams[0]);
    for (int i = 0; i < 2; i++) {
        CALL(cuCtxSetCurrent, (P), contexts[i]);
        CALL(cuCtxSynchronize, (void), );
    }
    tell_both("freed", code, contexts);
}

#define TAKE(what, to, size, pool) \
    tell(what, CALL(cuMemAllocFromPoolAsync, (U64 *, size_t, P, P), to, (size_t)(size) << 20, pool, stream))
#define GIVE(what, address) tell(what, CALL(cuMemFreeAsync, (U64, P), address, stream))

/* What pools keep of what they gave. */
static void keeps(void) {
    struct pool properties = {1, 0, 1, 0, NULL, 0, {0}};
    P pools[2], stream = NULL;
    U64 all = UINT64_MAX, one = 0, two = 0, three = 0;
    CALL(cuStreamCreate, (P *, U32), &stream, 1);
    for (int i = 0; i < 2; i++) {
        CALL(cuMemPoolCreate, (P *, void *), &pools[i], &properties);
        CALL(cuMemPoolSetAttribute, (P, int, P), pools[i], 4, &all);
    }
    TAKE("100 of 128", &one, 100, pools[0]);
    GIVE("kept", one);
    tell("kept also when waited for", CALL(cuStreamSynchronize, (P), stream));
    TAKE("again", &one, 100, pools[0]);
    TAKE("20 of the rest", &two, 20, pools[0]);
    TAKE("20 more", &three, 20, pools[0]);
    GIVE("kept", one);
    TAKE("too much", &one, 2000, pools[0]);
    tell("trimmed for it", 0);
    GIVE("kept", two);
    GIVE("kept", three);
    tell("trim", CALL(cuMemPoolTrimTo, (P, size_t), pools[0], 0));
    TAKE("all but a piece", &one, 992, pools[0]);
    TAKE("the last piece", &two, 20, pools[0]);
    TAKE("of the last piece", &three, 10, pools[0]);
    GIVE("kept", one);
    GIVE("kept", two);
    GIVE("kept", three);
    TAKE("all", &one, 1024, pools[0]);
    TAKE("nothing for the other", &two, 1, pools[1]);
    GIVE("kept", one);
    tell("plain, trimmed for it", CALL(cuMemAlloc_v2, (U64 *, size_t), &one, 900 << 20));
    TAKE("64 of 64", &two, 64, pools[1]);
    tell("destroy", CALL(cuMemPoolDestroy, (P), pools[1]));
    TAKE("gone", &three, 1, pools[1]);
    GIVE("ends with its last block", two);
    tell("destroy", CALL(cuMemPoolDestroy, (P), pools[0]));
    tell("free", CALL(cuMemFree_v2, (U64), one));
    tell("from no pool", CALL(cuMemAllocAsync, (U64 *, size_t, P), &one, 1000, stream));
    tell("free", CALL(cuMemFree_v2, (U64), one));
    printf("waited %d\n", CALL(cuCtxSynchronize, (void), ));
}

static P everyones, many_pools[3];

/* Takes and gives back in no order; a thread's number says where it begins. */
static void *churn(void *number) {
    unsigned state = (unsigned)(intptr_t)number;
    U64 held[8] = {0};
    P stream = NULL;
    CALL(cuCtxSetCurrent, (P), everyones);
    CALL(cuStreamCreate, (P *, U32), &stream, 1);
    for (int round = 0; round < 400; round++) {
        state = state * 1103515245 + 12345;
        U64 *place = &held[state >> 16 & 7];
        size_t size = (1 + (state >> 20 & 31)) << 20;
        P pool = many_pools[(state >> 26) % 3];
        if (*place != 0) {
            CALL(cuMemFreeAsync, (U64, P), *place, stream);
            *place = 0;
        } else if (round % 16 == 15) {
            CALL(cuMemPoolTrimTo, (P, size_t), pool, 0);
        } else if (CALL(cuMemAllocFromPoolAsync, (U64 *, size_t, P, P), place, size, pool, stream) != 0) {
            *place = 0;
        }
        if (round % 32 == 0) CALL(cuStreamSynchronize, (P), stream);
    }
    for (int i = 0; i < 8; i++) {
        if (held[i] != 0) CALL(cuMemFreeAsync, (U64, P), held[i], stream);
    }
    return NULL;
}

/* Pools of which many threads take at once. */
static void threads(void) {
    struct pool properties = {1, 0, 1, 0, NULL, 0, {0}};
    pthread_t all[4];
    U64 threshold = 40 << 20;
    CALL(cuCtxGetCurrent, (P *), &everyones);
    for (int i = 0; i < 3; i++) {
        CALL(cuMemPoolCreate, (P *, void *), &many_pools[i], &properties);
        CALL(cuMemPoolSetAttribute, (P, int, P), many_pools[i], 4, &threshold);
    }
    for (int i = 0; i < 4; i++) pthread_create(&all[i], NULL, churn, (P)(intptr_t)(i + 1));
    for (int i = 0; i < 4; i++) pthread_join(all[i], NULL);
    for (int i = 0; i < 3; i++) CALL(cuMemPoolTrimTo, (P, size_t), many_pools[i], 0);
    tell("threads", 0);
    for (int i = 0; i < 3; i++) CALL(cuMemPoolDestroy, (P), many_pools[i]);
}

/* What a pool has of its device, in MiB, as the driver says it. */
static void tell_pool(const char *what, P pool) {
    U64 reserved = 0;
    int code = CALL(cuMemPoolGetAttribute, (P, int, P), pool, 5, &reserved);
    printf("%s %d %d\n", what, code, (int)(reserved >> 20));
}

/* A pool whose blocks are freed in streams that have not come to it: all of them wait for one. */
static void pending(void) {
    struct pool properties = {1, 0, 1, 0, NULL, 0, {0}};
    P pools[1], stream = NULL, streams[5], event = NULL;
    U64 all = UINT64_MAX, block = 0, plain = 0;
    CALL(cuMemPoolCreate, (P *, void *), &pools[0], &properties);
    CALL(cuMemPoolSetAttribute, (P, int, P), pools[0], 4, &all);
    CALL(cuEventCreate, (P *, U32), &event, 0);
    for (int i = 0; i < 5; i++) CALL(cuStreamCreate, (P *, U32), &streams[i], 1);
    for (int round = 0; round < 2; round++) {
        work(streams[0], 1500);
        CALL(cuEventRecord, (P, P), event, streams[0]);
        for (int i = 0; i < 4; i++) {
            stream = streams[i + 1];
            block = 0;
            /* At first there is room for each; then not even for the second. */
            TAKE("take", &block, round == 0 ? 32 : 128, pools[0]);
            tell_pool("pool", pools[0]);
            CALL(cuStreamWaitEvent, (P, P, U32), stream, event, 0);
            if (block != 0) GIVE("give", block);
        }
        tell("waited", CALL(cuCtxSynchronize, (void), ));
        CALL(cuMemPoolTrimTo, (P, size_t), pools[0], 0);
        tell_pool("trimmed", pools[0]);
    }
    tell("plain", CALL(cuMemAlloc_v2, (U64 *, size_t), &plain, 64 << 20));
    TAKE("take", &block, 128, pools[0]);
    GIVE("give", block);
    tell("free", CALL(cuMemFree_v2, (U64), plain));
    tell("destroy", CALL(cuMemPoolDestroy, (P), pools[0]));
}

static void *take_slowly(void *to) {
    CALL(cuCtxSetCurrent, (P), everyones);
    CALL(cuMemAllocFromPoolAsync, (U64 *, size_t, P, P), to, 8 << 20, many_pools[0], NULL);
    return NULL;
}

/* A block that the driver has given, and has not told of. */
static void on_the_way(void) {
    struct pool properties = {1, 0, 1, 0, NULL, 0, {0}};
    P pools[1], stream = NULL;
    U64 all = UINT64_MAX, one = 0, two = 0;
    pthread_t thread;
    CALL(cuCtxGetCurrent, (P *), &everyones);
    CALL(cuMemPoolCreate, (P *, void *), &pools[0], &properties);
    CALL(cuMemPoolSetAttribute, (P, int, P), pools[0], 4, &all);
    many_pools[0] = pools[0];
    TAKE("20 of 32", &one, 20, pools[0]);
    pthread_create(&thread, NULL, take_slowly, &two);
    usleep(200000);
    tell("waited", CALL(cuStreamSynchronize, (P), NULL));
    pthread_join(thread, NULL);
    tell("28 of 32", 0);
    GIVE("give", one);
    GIVE("give", two);
    tell("destroy", CALL(cuMemPoolDestroy, (P), pools[0]));
}

static void *come_and_go(void *unused) {
    struct pool properties = {1, 0, 1, 0, NULL, 0, {0}};
    U64 all = UINT64_MAX;
    CALL(cuCtxSetCurrent, (P), everyones);
    for (int i = 0; i < 30; i++) {
        P pool = NULL;
        U64 block = 0;
        CALL(cuMemPoolCreate, (P *, void *), &pool, &properties);
        CALL(cuMemPoolSetAttribute, (P, int, P), pool, 4, &all);
        CALL(cuMemAllocFromPoolAsync, (U64 *, size_t, P, P), &block, 20 << 20, pool, NULL);
        CALL(cuMemFreeAsync, (U64, P), block, NULL);
        CALL(cuMemPoolDestroy, (P), pool);
    }
    return unused;
}

/* Pools that end while other threads find no room. */
static void ends(void) {
    P pool = NULL;
    U64 block = 0;
    pthread_t thread;
    int code = 0;
    CALL(cuCtxGetCurrent, (P *), &everyones);
    pthread_create(&thread, NULL, come_and_go, NULL);
    while (pthread_tryjoin_np(thread, NULL) != 0) code |= CALL(cuMemAlloc_v2, (U64 *, size_t), &block, (size_t)2 << 30);
    tell("ends", code);
    /* One that cannot be destroyed is there as before. */
    CALL(cuDeviceGetDefaultMemPool, (P *, int), &pool, 0);
    CALL(cuMemAllocAsync, (U64 *, size_t, P), &block, 20 << 20, NULL);
    tell("destroy", CALL(cuMemPoolDestroy, (P), pool));
    tell("free", CALL(cuMemFreeAsync, (U64, P), block, NULL));
    tell("all", CALL(cuMemAlloc_v2, (U64 *, size_t), &block, (size_t)1 << 30));
    tell("free", CALL(cuMemFree_v2, (U64), block));
}

int main(int count, char **arguments) {
    static const struct part all[] = {
        {"pools", pools},
        {"keeps", keeps},
        {"threads", threads},
        {"pending", pending},
        {"on the way", on_the_way},
        {"ends", ends},
        {NULL, NULL},
    };
    return do_part(count, arguments, all);
}
