/* Memory of a GPU that is given in stream order, and that of graphs. */
#include "gpu.h"

#include <pthread.h>

/* What is left on each of two devices. */
static void tell_both(const char *what, int code, P contexts[2]) {
    P before = NULL;
    size_t free[2];
    CALL(cuCtxGetCurrent, (P *), &before);
    for (int i = 0; i < 2; i++) {
        CALL(cuCtxSetCurrent, (P), contexts[i]);
        free[i] = left() >> 20;
    }
    CALL(cuCtxSetCurrent, (P), before);
    printf("%s %d %zu %zu\n", what, code, free[0], free[1]);
}

struct pool {
    int kind, types, where, device;
    P security;
    size_t most;
    U64 rest[7];
};

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

/* A graph of one allocation, captured or added, that frees it again or leaves it to the program, made ready. */
struct graph {
    P made, ready;
    U64 address;
};

struct node {
    int kind, reserved[3];
    struct pool pool;
    P access;
    size_t count, bytes;
    U64 address, rest[17];
};

static struct graph graph_of(const char *how, size_t bytes, int device, int frees) {
    struct graph graph = {NULL, NULL, 0};
    P stream = NULL, node = NULL;
    struct node wish = {10, {0}, {1, 0, 1, device, NULL, 0, {0}}, NULL, 0, bytes, 0, {0}};
    int code = 0;
    if (!strcmp(how, "captured")) {
        CALL(cuStreamCreate, (P *, U32), &stream, 1);
        code |= CALL(cuStreamBeginCapture_v2, (P, int), stream, 0);
        code |= CALL(cuMemAllocAsync, (U64 *, size_t, P), &graph.address, bytes, stream);
        if (frees) code |= CALL(cuMemFreeAsync, (U64, P), graph.address, stream);
        code |= CALL(cuStreamEndCapture, (P, P *), stream, &graph.made);
        CALL(cuStreamDestroy_v2, (P), stream);
    } else {
        code |= CALL(cuGraphCreate, (P *, U32), &graph.made, 0);
        if (!strcmp(how, "added"))
            code |= CALL(cuGraphAddMemAllocNode, (P *, P, P, size_t, P), &node, graph.made, NULL, 0, &wish.pool);
        else if (!strcmp(how, "of any type"))
            code |= CALL(cuGraphAddNode, (P *, P, P, size_t, P), &node, graph.made, NULL, 0, &wish);
        else
            code |= CALL(cuGraphAddNode_v2, (P *, P, P, P, size_t, P), &node, graph.made, NULL, NULL, 0, &wish);
        graph.address = wish.address;
        if (frees)
            code |= CALL(cuGraphAddMemFreeNode, (P *, P, P, size_t, U64), &node, graph.made, NULL, 0, graph.address);
    }
    code |= CALL(cuGraphInstantiateWithFlags, (P *, P, U64), &graph.ready, graph.made, 0);
    tell(how, code);
    return graph;
}

static void run(const char *what, struct graph graph) {
    tell(what, CALL(cuGraphLaunch, (P, P), graph.ready, NULL));
}

static void drop(struct graph graph) {
    int code = CALL(cuGraphExecDestroy, (P), graph.ready);
    tell("drop", code | CALL(cuGraphDestroy, (P), graph.made));
}

/* Memory that graphs take when they are launched, and not before. */
static void graphs(void) {
    static const char *const ways[] = {"captured", "added", "of any type", "with edges"};
    U64 plain = 0;
    for (int i = 0; i < 4; i++) {
        struct graph graph = graph_of(ways[i], 40 << 20, 0, 1);
        run("launch", graph);
        tell("beside it", CALL(cuMemAlloc_v2, (U64 *, size_t), &plain, 30 << 20));
        run("again", graph);
        drop(graph);
        graph = graph_of(ways[i], 40 << 20, 0, 0);
        run("launch", graph);
        run("not freed", graph);
        tell("free", CALL(cuMemFreeAsync, (U64, P), graph.address, NULL));
        run("launch", graph);
        tell("free", CALL(cuMemFree_v2, (U64), graph.address));
        drop(graph);
        graph = graph_of(ways[i], 66 << 20, 0, 1);
        run("too much", graph);
        drop(graph);
    }
    struct graph one = graph_of("captured", 30 << 20, 0, 1), two = graph_of("added", 40 << 20, 0, 1);
    run("the first", one);
    run("the second has its place", two);
    run("and it again", one);
    tell("trim", CALL(cuDeviceGraphMemTrim, (int), 0));
    tell("plain", CALL(cuMemAlloc_v2, (U64 *, size_t), &plain, 40 << 20));
    run("no place", one);
    tell("free", CALL(cuMemFree_v2, (U64), plain));
    tell("upload", CALL(cuGraphUpload, (P, P), one.ready, NULL));
    run("launch", one);
    run("the second", two);
    drop(two);
    tell("plain", CALL(cuMemAlloc_v2, (U64 *, size_t), &plain, 40 << 20));
    tell("no place to upload", CALL(cuGraphUpload, (P, P), one.ready, NULL));
    drop(one);
    tell("free", CALL(cuMemFree_v2, (U64), plain));

    /* What is freed in a capture is not free. */
    P stream = NULL, graph = NULL;
    U64 more = 0;
    CALL(cuStreamCreate, (P *, U32), &stream, 1);
    tell("ordered", CALL(cuMemAllocAsync, (U64 *, size_t, P), &more, 32 << 20, stream));
    CALL(cuStreamBeginCapture_v2, (P, int), stream, 2);
    int code = CALL(cuMemFreeAsync, (U64, P), more, stream);
    CALL(cuStreamEndCapture, (P, P *), stream, &graph);
    tell("freed in a capture", code);
    CALL(cuGraphDestroy, (P), graph);
    code = CALL(cuMemFreeAsync, (U64, P), more, stream);
    CALL(cuCtxSynchronize, (void), );
    tell("freed", code);
}

/* A graph that is being made: captured, or of nodes that are added. */
static P making, recording;
static const char *made_how;

static void begin_graph(const char *how) {
    made_how = how;
    if (!strcmp(how, "captured")) {
        CALL(cuStreamCreate, (P *, U32), &recording, 1);
        CALL(cuStreamBeginCapture_v2, (P, int), recording, 0);
    } else {
        CALL(cuGraphCreate, (P *, U32), &making, 0);
    }
}

static U64 graph_takes(size_t megabytes) {
    struct node wish = {10, {0}, {1, 0, 1, 0, NULL, 0, {0}}, NULL, 0, megabytes << 20, 0, {0}};
    P node = NULL;
    if (!strcmp(made_how, "captured"))
        CALL(cuMemAllocAsync, (U64 *, size_t, P), &wish.address, wish.bytes, recording);
    else if (!strcmp(made_how, "added"))
        CALL(cuGraphAddMemAllocNode, (P *, P, P, size_t, P), &node, making, NULL, 0, &wish.pool);
    else
        CALL(cuGraphAddNode_v3, (P *, P, P, P, size_t, P), &node, making, NULL, NULL, 0, &wish);
    return wish.address;
}

static void graph_gives(U64 address) {
    struct { int kind, reserved[3]; U64 address, rest[29]; } wish = {11, {0}, address, {0}};
    P node = NULL;
    if (!strcmp(made_how, "captured"))
        CALL(cuMemFreeAsync, (U64, P), address, recording);
    else if (!strcmp(made_how, "added"))
        CALL(cuGraphAddMemFreeNode, (P *, P, P, size_t, U64), &node, making, NULL, 0, address);
    else
        CALL(cuGraphAddNode_v3, (P *, P, P, P, size_t, P), &node, making, NULL, NULL, 0, &wish);
}

static struct graph end_graph(void) {
    struct graph graph = {making, NULL, 0};
    if (!strcmp(made_how, "captured")) {
        CALL(cuStreamEndCapture, (P, P *), recording, &graph.made);
        CALL(cuStreamDestroy_v2, (P), recording);
    }
    tell(made_how, CALL(cuGraphInstantiateWithFlags, (P *, P, U64), &graph.ready, graph.made, 0));
    return graph;
}

/* Graphs that allocate and free many times. */
static void temporaries(void) {
    static const char *const ways[] = {"captured", "added", "of any type"};
    for (int i = 0; i < 3; i++) {
        begin_graph(ways[i]);
        for (int n = 0; n < 200; n++) graph_gives(graph_takes(1));
        struct graph graph = end_graph();
        run("one by one", graph);
        run("again", graph);
        drop(graph);
        begin_graph(ways[i]);
        U64 first = graph_takes(30), second = graph_takes(20);
        graph_gives(first);
        first = graph_takes(40);
        graph_gives(second);
        graph_gives(first);
        graph = end_graph();
        run("two at a time", graph);
        drop(graph);
        begin_graph(ways[i]);
        graph_gives(graph_takes(40));
        first = graph_takes(30);
        second = graph_takes(40);
        graph_gives(first);
        graph_gives(second);
        graph = end_graph();
        run("too much at a time", graph);
        drop(graph);
        /* One frees what the other leaves. */
        begin_graph(ways[i]);
        graph_gives(graph_takes(20));
        first = graph_takes(40);
        graph = end_graph();
        begin_graph(ways[i]);
        graph_gives(first);
        first = graph_takes(20);
        graph_gives(first);
        struct graph other = end_graph();
        run("it leaves", graph);
        run("the other frees", other);
        drop(other);
        drop(graph);
    }
}

/* A graph that is recorded anew, and gives the address that it gave. */
static void recaptured(void) {
    P stream = NULL;
    U64 again = 0;
    begin_graph("captured");
    U64 address = graph_takes(40);
    struct graph graph = end_graph();
    run("launch", graph);
    tell("free", CALL(cuMemFree_v2, (U64), address));
    CALL(cuGraphExecDestroy, (P), graph.ready);
    CALL(cuStreamCreate, (P *, U32), &stream, 1);
    for (int i = 0; i < 2; i++) {
        int code = CALL(cuStreamBeginRecaptureToGraph, (P, int, P, P, P), stream, 0, graph.made, NULL, NULL);
        code |= CALL(cuMemAllocAsync, (U64 *, size_t, P), &again, (size_t)(40 + i) << 20, stream);
        tell("recorded", code);
        code = CALL(cuStreamEndCapture, (P, P *), stream, &graph.made);
        tell(again == address ? "as before" : "another address", code);
        if (code != 0) break;
        CALL(cuGraphInstantiateWithFlags, (P *, P, U64), &graph.ready, graph.made, 0);
        run("launch", graph);
        tell("free", CALL(cuMemFree_v2, (U64), address));
        CALL(cuGraphExecDestroy, (P), graph.ready);
    }
}

/* A kernel that takes so long: in the stand-in driver a function is a duration. */
static void work(P stream, U64 milliseconds) {
    CALL(cuLaunchKernel, (P, U32, U32, U32, U32, U32, U32, U32, P, P *, P *), (P)(milliseconds * 1000000), 1, 1, 1, 1,
         1, 1, 0, stream, NULL, NULL);
}

/* Graphs that are launched while others run. */
static void launches(void) {
    struct graph all[3];
    P streams[2];
    for (int i = 0; i < 2; i++) CALL(cuStreamCreate, (P *, U32), &streams[i], 1);
    for (int i = 0; i < 3; i++) {
        begin_graph("captured");
        U64 address = graph_takes(i == 0 ? 30 : 40);
        work(recording, 500);
        graph_gives(address);
        all[i] = end_graph();
    }
    for (int i = 0; i < 2; i++) tell("one after the other", CALL(cuGraphLaunch, (P, P), all[i].ready, streams[0]));
    tell("beside them", CALL(cuGraphLaunch, (P, P), all[2].ready, streams[1]));
    CALL(cuStreamSynchronize, (P), streams[0]);
    tell("when they are done", CALL(cuGraphLaunch, (P, P), all[2].ready, streams[1]));
    for (int i = 0; i < 3; i++) drop(all[i]);
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

/* Graphs of another device than the current one. */
static void graphs_there(void) {
    P contexts[2], before = NULL;
    CALL(cuCtxGetCurrent, (P *), &before);
    for (int i = 0; i < 2; i++) CALL(cuDevicePrimaryCtxRetain, (P *, int), &contexts[i], i);
    struct graph graph = graph_of("added", 64 << 20, 1, 0);
    tell_both("ready", 0, contexts);
    int code = CALL(cuGraphLaunch, (P, P), graph.ready, NULL);
    tell_both("launched", code, contexts);
    code = CALL(cuMemFree_v2, (U64), graph.address);
    tell_both("freed", code, contexts);
    drop(graph);
    graph = graph_of("added", 256 << 20, 1, 0);
    code = CALL(cuGraphLaunch, (P, P), graph.ready, NULL);
    tell_both("too much", code, contexts);
    drop(graph);
}

int main(int count, char **arguments) {
    static const struct part all[] = {
        {"pools", pools},
        {"keeps", keeps},
        {"threads", threads},
        {"pending", pending},
        {"on the way", on_the_way},
        {"ends", ends},
        {"graphs", graphs},
        {"temporaries", temporaries},
        {"recaptured", recaptured},
        {"launches", launches},
        {"graphs there", graphs_there},
        {NULL, NULL},
    };
    return do_part(count, arguments, all);
}
