/* ep_bench: the expert-parallel layer timed and checked on one rank of several, which all do the same. */
#ifndef MOET_EP_BENCH_H
#define MOET_EP_BENCH_H

#include "../kernels/ops.h"
#include "../src/ep.h"
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
    char transport[16];
    moet_ep_returns returns;
    int32_t chunks, comm_sms;
} moet_ep_variant;

typedef struct moet_ep_bench {
    moet_handle *handle;
    moet_ops *ops;
    void *stream, *begin, *end; /* events */
    moet_ep_options as;         /* rank, ranks, rendezvous, net, timeout */
    moet_numerics numerics;
    int32_t rounds;
    bool is_checked;  /* bits against one rank with all experts, or the ranks' groups, before timing */
    moet_output *out; /* rank 0's; NULL elsewhere */
} moet_ep_bench;

enum { MOET_EP_MAX_VARIANTS = 16, MOET_EP_COLUMNS = 19 };
extern const moet_output_column moet_ep_columns[MOET_EP_COLUMNS];

/* handle: the rank's own device. The bench is to be closed also after an error. */
moet_status moet_ep_bench_open(moet_ep_bench *bench, moet_handle *handle);
void moet_ep_bench_close(moet_ep_bench *bench);

/* Times all variants in the same rounds, and for each transport and kind of return the parts alone: dispatch, experts,
 * combine. Prints a row for each variant. WRONG where a check fails. */
moet_status moet_ep_bench_point(moet_ep_bench *bench, const moet_ep_shape *point, const moet_ep_variant *variants,
                                int32_t variant_count);

#endif
