/* nccl_api: what is used of the C interfaces of NCCL and of its library for expert parallelism, NCCL EP
 * (docs/nccl_ep.md). Both are bound at run time; their headers are not in every toolkit, so that the structures are
 * declared by hand. Sizes and places are part of their binary interface: structures only grow at their end, and carry
 * their own size. */
#ifndef MOET_NCCL_API_H
#define MOET_NCCL_API_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- NCCL ---- */

enum { NCCL_SUCCESS = 0, NCCL_IN_PROGRESS = 7 };
enum { NCCL_INT8 = 0, NCCL_INT32 = 2, NCCL_INT64 = 4, NCCL_FLOAT32 = 7, NCCL_BFLOAT16 = 9 };
enum { NCCL_WINDOW_SYMMETRIC = 1 };
#define NCCL_MAGIC 0xcafebeefu

typedef struct nccl_id {
    char bytes[128];
} nccl_id;

/* ncclConfig_t as of 2.18: NCCL reads `size` bytes and takes what newer versions have added for not set. */
typedef struct nccl_config {
    size_t size;
    unsigned magic, version;
    int blocking, cga_cluster_size, min_ctas, max_ctas;
    const char *net_name;
    int split_share;
} nccl_config;

/* max_ctas: SMs for NCCL's own kernels, 0: its choice. */
static inline nccl_config nccl_config_make(bool is_blocking, int max_ctas)
{
    return (nccl_config){.size = sizeof(nccl_config),
                         .magic = NCCL_MAGIC,
                         .version = 21800,
                         .blocking = is_blocking,
                         .cga_cluster_size = INT_MIN,
                         .min_ctas = INT_MIN,
                         .max_ctas = max_ctas > 0 ? max_ctas : INT_MIN,
                         .net_name = NULL,
                         .split_share = INT_MIN};
}

/* ncclCommProperties_t as of 2.29.7. */
typedef struct nccl_properties {
    size_t size;
    unsigned magic, version;
    int rank, ranks, cuda_device, nvml_device;
    bool has_device_api, has_multimem;
    int gin_type, lsa_teams;
    bool has_host_rma;
    int railed_gin_type;
} nccl_properties;

/* ---- NCCL EP 0.2 ---- */

#define NCCL_EP_MAGIC 0xc00fffeeu
#define NCCL_EP_TENSOR_MAGIC 0xcafecafeu
enum { NCCL_EP_INTERFACE = 2, NCCL_EP_HIGH_THROUGHPUT = 1, NCCL_EP_LOCAL_IDS = 1 };
enum { NCCL_EP_EXPERT_MAJOR = 1, NCCL_EP_FLAT = 3 };          /* layouts */
enum { NCCL_EP_ZERO_COPY_OFF = 1, NCCL_EP_ZERO_COPY_ON = 2 }; /* tokens straight into windows */

/* Every structure begins so. */
typedef struct nccl_ep_head {
    unsigned size, magic;
} nccl_ep_head;

typedef struct nccl_ep_tensor {
    nccl_ep_head head; /* magic: NCCL_EP_TENSOR_MAGIC */
    unsigned dims;
    int type;
    void *data;
    void *window; /* ncclWindow_t, NULL: none */
    uint64_t window_offset;
    size_t *sizes; /* [dims], the caller's */
} nccl_ep_tensor;

typedef struct nccl_ep_config {
    nccl_ep_head head;
    unsigned version;
    int algorithm;
    unsigned experts, max_tokens, max_recv_rows, token_bytes;
    unsigned long rdma_bytes;
    unsigned queue_pairs, channels, sms; /* 0: its choice */
    void *alloc, *free, *alloc_context;  /* NULL: cudaMalloc */
    unsigned has_mask;
    uint64_t timeout_ns; /* of the low-latency mode */
    int zero_copy, overflow;
    unsigned choices;
    unsigned char padding[4];
} nccl_ep_config;

typedef struct nccl_ep_handle_config {
    nccl_ep_head head;
    size_t alignment;
} nccl_ep_handle_config;

typedef struct nccl_ep_layout_info {
    nccl_ep_head head;
    nccl_ep_tensor *expert_counts, *source_counts, *expert_first, *recv_rows;
    int id_kind;
    unsigned char padding[4];
} nccl_ep_layout_info;

typedef struct nccl_ep_dispatch_in {
    nccl_ep_head head;
    nccl_ep_tensor *tokens, *weights, *scales;
} nccl_ep_dispatch_in;

typedef struct nccl_ep_dispatch_out {
    nccl_ep_head head;
    nccl_ep_tensor *tokens, *weights, *scales, *ids;
} nccl_ep_dispatch_out;

typedef struct nccl_ep_combine_in {
    nccl_ep_head head;
    nccl_ep_tensor *tokens, *weights, *scales;
} nccl_ep_combine_in;

typedef struct nccl_ep_combine_out {
    nccl_ep_head head;
    nccl_ep_tensor *tokens, *weights;
} nccl_ep_combine_out;

_Static_assert(sizeof(nccl_ep_tensor) == 48 && sizeof(nccl_ep_config) == 112 && sizeof(nccl_ep_handle_config) == 16 &&
                   sizeof(nccl_ep_layout_info) == 48 && sizeof(nccl_ep_dispatch_in) == 32 &&
                   sizeof(nccl_ep_dispatch_out) == 40 && sizeof(nccl_ep_combine_in) == 32 &&
                   sizeof(nccl_ep_combine_out) == 24,
               "the sizes of NCCL EP's second interface");

#endif
