/* Memory of a GPU that graphs take. */
#include "gpu.h"

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
        {"graphs", graphs},
        {"temporaries", temporaries},
        {"recaptured", recaptured},
        {"launches", launches},
        {"graphs there", graphs_there},
        {NULL, NULL},
    };
    return do_part(count, arguments, all);
}
