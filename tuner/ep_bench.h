/* ep_bench: the expert-parallel layer timed and checked on one rank of several, which all do the same. */
#ifndef MOET_EP_BENCH_H
#define MOET_EP_BENCH_H

#include "../kernels/ops.h"
#include "../src/ep.h"
#include "../src/ep_choice.h"
#include "output.h"

/* A shape with its tokens. */
typedef struct moet_ep_shape {
    char name[64];
    int32_t experts, choices, hidden, inter; /* of the whole layer */
    int64_t tokens;                          /* on each rank */
    double zipf; /* weight of the i-th expert is i^-zipf, in an order of its own; 0: uniform */
    char skew[24];
} moet_ep_shape;

/* How the layer is run. */
typedef struct moet_ep_variant {
    char transport[MOET_EP_NAME_SIZE];
    moet_ep_returns returns;
    int32_t chunks, comm_sms;
} moet_ep_variant;

/* What a way of running the layer gave, on rank 0; for the time of a call. */
typedef struct moet_ep_result {
    const moet_ep_shape *point;
    const moet_ep_variant *variant;
    const moet_ep *ep;  /* that ran it: its options are resolved */
    const char *config; /* of the experts */
    int64_t busiest;    /* expert rows of the busiest rank */
    bool is_graph;      /* timed by replaying a graph */
    /* [rounds] the slowest rank's; of the parts alone NULL where they are another variant's */
    const int64_t *layer_ns, *dispatch_ns, *experts_ns, *combine_ns;
} moet_ep_result;

typedef struct moet_ep_bench {
    moet_handle *handle;
    moet_ops *ops;
    void *stream, *begin, *end; /* events */
    moet_ep_options as;         /* rank, ranks, rendezvous, net, timeout */
    moet_numerics numerics;
    int32_t rounds;
    const char *ids_dir; /* what tokens choose is read from there (ep_ids.h); NULL: drawn */
    bool is_checked;  /* bits against one rank with all experts, or the ranks' groups, before timing */
    moet_output *out; /* rank 0's; NULL elsewhere */
    /* Where rank 0's results go too; NULL: nowhere. */
    moet_status (*keep)(void *context, const moet_ep_result *result);
    void *keep_context;
} moet_ep_bench;

enum { MOET_EP_MAX_VARIANTS = 16, MOET_EP_COLUMNS = 19 };
extern const moet_output_column moet_ep_columns[MOET_EP_COLUMNS];

/* handle: the rank's own device. The bench is to be closed also after an error. */
moet_status moet_ep_bench_open(moet_ep_bench *bench, moet_handle *handle);
void moet_ep_bench_close(moet_ep_bench *bench);

/* The layer's problem at a point, and what a variant asks of moet_ep_create. */
moet_problem moet_ep_bench_problem(const moet_ep_bench *bench, const moet_ep_shape *point);
moet_ep_options moet_ep_bench_options(const moet_ep_bench *bench, const moet_ep_shape *point,
                                      const moet_ep_variant *variant);
/* Whether that is what a caller gets who leaves everything open, without a table. */
bool moet_ep_bench_is_default(const moet_ep_variant *variant);

/* Times all variants in the same rounds, and for each transport and kind of return the parts alone: dispatch, experts,
 * combine. Prints a row for each variant. WRONG where a check fails. */
moet_status moet_ep_bench_point(moet_ep_bench *bench, const moet_ep_shape *point, const moet_ep_variant *variants,
                                int32_t variant_count);

#endif
