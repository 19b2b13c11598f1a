/* ep: what the expert-parallel layer holds, for ep.c and its transports, and for what measures its parts. */
#ifndef MOET_EP_INTERNAL_H
#define MOET_EP_INTERNAL_H

#include "ep_choice.h"
#include "ep_device.h"
#include "ep_stages.h"
#include "moet_ep.h"
#include "plan.h"

/* A part of the tokens, with buffers of its own. All memory is the device's but for the last block. */
typedef struct moet_ep_chunk {
    moet_ep_pass pass;
    void *route;              /* what pass points to beside the buffers */
    uint8_t *recv;            /* [ranks * max_tokens] rows of pass.row_bytes: those that arrived; allgather: of 2 H */
    uint8_t *tails;           /* ids and what follows of the first of them, pass.tail_bytes apart */
    void *y;                  /* SUMS: [ranks * max_tokens, H]; ROWS: [max_rows, H], with the places of received rows */
    int32_t *places;          /* ROWS: [ranks * max_tokens, width] */
    void *memory;             /* exchange: recv, y, places and the three below; else NULL */
    uint8_t *send;            /* rows for other ranks, one rank after the other */
    void *back;               /* what they send back, in the same order */
    void *packed;             /* ROWS: pairs for other ranks */
    void **windows;           /* lsa, allgather: [ranks] mapped windows; host memory */
    void *sums;               /* allgather in three parts and more: [remote slots, H] */
    int32_t *counts;          /* exchange, host memory: [ranks, 2] sent, [ranks, 2] received, of the latest run; again,
                                 those that have frozen_number */
    int32_t *frozen;          /* [ranks, 2] device memory: sent ones that a capture keeps; behind them their number */
    int32_t frozen_number;    /* raised where a run has other counts than the one before; 0: none yet */
    void *own;                /* the transport's */
    void *arrived, *computed; /* events: dispatched, experts done */
    void *sent[MOET_EP_MAX_CHUNKS]; /* events: allgather's own rows of a piece are with the others */
} moet_ep_chunk;

typedef struct moet_ep_transport {
    const char *name;
    bool is_graph_safe, is_by_memory; /* by_memory: the other ranks' memory is mapped, no communicator moves rows */
    /* The bounds of the layer, where they are not those of tokens cut into chunks; else NULL. */
    void (*size)(moet_ep *ep);
    /* What it has of its own, NULL: nothing. Parameters, behind its name in the options, and what it cannot do; what
     * moet_ffn's plan is for; what rows travel by, created by all ranks; moet_ffn where rows do not lie as usual. */
    moet_status (*check)(const moet_problem *problem, const moet_ep_options *options);
    void (*plan_experts)(const moet_ep *ep, moet_plan_options *plan);
    moet_status (*create_data)(moet_ep *ep, moet_ep_comm **data);
    moet_status (*run_experts)(moet_ep *ep, const moet_ep_chunk *chunk, const moet_ep_args *args, void *stream);
    /* Buffers of a chunk and the pointers of its pass. Collective. */
    moet_status (*open)(moet_ep *ep, moet_ep_chunk *chunk);
    void (*close)(moet_ep *ep, moet_ep_chunk *chunk);
    moet_status (*dispatch)(moet_ep *ep, moet_ep_chunk *chunk, void *stream);
    moet_status (*combine)(moet_ep *ep, moet_ep_chunk *chunk, void *stream);
    /* All of it, or `parts`, for a transport whose order is its own; else NULL, and dispatch and combine are called. */
    moet_status (*run)(moet_ep *ep, const moet_ep_args *args, int32_t parts);
} moet_ep_transport;

extern const moet_ep_transport moet_ep_transport_exchange, moet_ep_transport_bound, moet_ep_transport_lsa,
    moet_ep_transport_lsa_joint, moet_ep_transport_allgather, moet_ep_transport_nccl_ep;

struct moet_ep {
    moet_handle *handle;
    moet_device *device;
    moet_problem problem, local; /* of the layer; of this rank */
    moet_ep_options options;     /* resolved */
    const moet_ep_transport *transport;
    const moet_ep_device_table *device_table;
    const moet_ep_stages_table *stages_table;
    moet_ep_stages *stages;
    moet_ep_comm *control, *data; /* data: of transports that exchange rows; else, and on the host, control itself */
    moet_plan *plan;
    int64_t chunk_tokens, recv_rows, max_rows; /* bounds of a chunk: tokens, received rows, their experts' rows */
    int64_t expected_rows;                     /* experts' rows of a chunk under even routing */
    int32_t width;                             /* min(k, local experts): rows of a token on one rank */
    int32_t *none;                             /* [max_rows] of -1 */
    moet_ep_chunk chunks[MOET_EP_MAX_CHUNKS];
    int32_t chunk_count;
    void *comm_stream, *begun, *ended; /* where something runs beside the experts */
    volatile int32_t *words;           /* lost: 1 + rank, failure; host memory that the device sees */
    size_t memory_bytes;
    bool is_chosen; /* options are the table's choice */
    bool is_broken;
    char text[512];
};

enum { MOET_EP_LOST, MOET_EP_FAILURE, MOET_EP_WORDS = 16 };

/* Parts of a run, for measuring them alone: after one whole run, with the same arguments. Each is complete on its own:
 * all ranks must run the same parts. */
enum { MOET_EP_DISPATCH = 1, MOET_EP_EXPERTS = 2, MOET_EP_COMBINE = 4, MOET_EP_ALL = 7 };
moet_status moet_ep_run_parts(moet_ep *ep, const moet_ep_args *args, int32_t parts);

/* Meets the other ranks by the options' rank, ranks, rendezvous, net and timeout. lost: as
 * moet_ep_comm_create_socket's. */
moet_status moet_ep_meet(const moet_device *device, const moet_ep_options *options, volatile int32_t *lost,
                         moet_ep_comm **control);

/* moet_ffn on rows that are here. */
typedef struct moet_ep_input {
    const void *x;
    int64_t x_stride;     /* elements */
    const uint8_t *tails; /* of the first row */
    int64_t tokens;       /* rows, or their bound */
    const int32_t *device_tokens;
    void *sums;      /* [tokens, H]; NULL: rows and places */
    void *rows;      /* [.., H] of the experts, uncombined */
    int32_t *places; /* [tokens, width] */
} moet_ep_input;
moet_status moet_ep_experts(moet_ep *ep, const moet_ep_args *args, const moet_ep_input *input, void *stream);

/* The tokens of `chunk`, the index-th of `count`, into its pass. */
void moet_ep_place_tokens(const moet_ep *ep, moet_ep_chunk *chunk, const moet_ep_args *args, int32_t index,
                          int32_t count);

/* An array [ranks] of pointers `start` bytes into the chunk's windows, into device memory at `to`. */
moet_status moet_ep_point_windows(moet_ep *ep, const moet_ep_chunk *chunk, size_t start, void *to);
/* Lets the windows go: collective. */
void moet_ep_close_windows(moet_ep *ep, moet_ep_chunk *chunk, size_t bytes);

/* Device memory of a chunk, counted in memory_bytes. */
moet_status moet_ep_alloc(moet_ep *ep, size_t bytes, void **memory);
/* pass.to, from and places from host arrays [ranks]; places may be NULL. */
moet_status moet_ep_point(moet_ep *ep, moet_ep_chunk *chunk, void *const *to, const void *const *from,
                          const void *const *places);

/* The place of a part that is put at the end of *bytes, which it moves up to the next 256. */
static inline size_t moet_ep_put(size_t *bytes, size_t part_bytes)
{
    const size_t start = *bytes;
    *bytes += (part_bytes + 255) / 256 * 256;
    return start;
}

#endif
