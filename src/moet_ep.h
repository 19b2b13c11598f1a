/* moet_ep.h: the expert-parallel layer of libmoet: dispatch, experts (moet_ffn), combine over several ranks, a process
 * each. docs/ep.md tells how it works. In the order of use, on every rank:
 *
 *   moet_open(table_dir, device, &handle)               the rank's own device
 *   moet_problem_init(&problem, MOET_OP_FFN, E, H, I)    E: experts of the whole layer, a multiple of the ranks
 *   moet_ep_launcher(&options)                           rank, ranks and rendezvous from mpirun, Slurm or torchrun
 *   moet_ep_create(handle, &problem, &options, &ep)      meets the other ranks, loads kernels, allocates: once
 *   moet_ep_run(ep, &args)                               enqueues the layer
 *   moet_ep_wait(ep, stream)                             waits for it, and never for ever
 *   moet_ep_destroy(ep)
 *
 * Rank r has the experts r E / ranks to (r + 1) E / ranks - 1. All calls from _create to _destroy are collective: every
 * rank makes them in the same order. Errors are as in moet.h. After an error of moet_ep_run or moet_ep_wait the layer
 * can only be destroyed, and what it wrote is undefined. */
#ifndef MOET_EP_H
#define MOET_EP_H

#include "moet.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOET_EP_MAX_RANKS 1024
#define MOET_EP_MAX_CHUNKS 4
#define MOET_EP_NAME_SIZE 64

/* What an expert's rank gives back.
 *   ROWS  a row for each of a token's experts; the token's rank sums them in FP32 over ascending experts and rounds
 *         once: the bits of moet_ffn with all experts on one rank, whatever the number of ranks (with numerics TRAIN
 *         and the families of this library). Not with combine PADDLE, which asks what is local.
 *   SUMS  one row for each token: moet_ffn's own result there, rounded to BF16; the token's rank adds these in FP32
 *         over ascending ranks and rounds once. Fewer bytes; the bits are those of one rank that runs the ranks'
 *         groups of experts by moet_ffn and adds them so, and depend on the number of ranks.
 * In both a token with a single row gets a copy of it (of ROWS only where it is not weighted at the combine), a token
 * without experts +0. */
#define MOET_EP_RETURNS_TABLE(X) X(ROWS, "rows") X(SUMS, "sums")
typedef enum moet_ep_returns {
#define MOET_X(name, text) MOET_EP_RETURNS_##name,
    MOET_EP_RETURNS_TABLE(MOET_X)
#undef MOET_X
        MOET_EP_RETURNS_COUNT
} moet_ep_returns;

typedef struct moet_ep moet_ep;

/* Equal on all ranks, but for rank. Texts are copied. */
typedef struct moet_ep_options {
    int32_t rank, ranks;
    /* "host:port" where rank 0 listens for the others; may be NULL with one rank, and with net "mpi". Not
     * authenticated: for a network that is yours alone. */
    char rendezvous[MOET_EP_NAME_SIZE];
    /* How ranks meet, and how rows travel between host devices: "socket" (TCP) or "mpi" (OpenMPI, bound at run time;
     * MPI_Init is called where nobody did); "" or "auto": mpi under mpirun where the device is the host, else socket.
     */
    char net[MOET_EP_NAME_SIZE];
    /* How rows travel: "exchange" (sends and receives of exact counts, which the host waits for), "bound" (of
     * max_tokens rows always, which a graph can replay), "lsa" (loads and stores to the other ranks' memory, one host),
     * "lsa_joint" (the same, its results given back and added up at once, returns SUMS),
     * "allgather" (all rows to all ranks by copies that take no SM, one host, returns SUMS; for few ranks) or "nccl_ep"
     * (NVIDIA's NCCL EP, where it is, returns SUMS; parameters follow as ":name=value", docs/nccl_ep.md; after an error
     * the process must end, as its kernels may not); "" or "auto": lsa where it can be, else exchange.
     * Where transport is left at auto and chunks and comm_sms at 0, the handle's table chooses all three, if it was
     * emitted from `moe-tune ep --db` of this problem (its E, H, I and numerics), ranks, hosts, choices and returns: of
     * its numbers of tokens the nearest to max_tokens by logarithm, at most four times as many or as few. The ranks
     * compare what they find; where it is not the same on all, or a transport cannot be had here, things are as without
     * a table. */
    char transport[MOET_EP_NAME_SIZE];
    moet_ep_returns returns;
    int64_t max_tokens; /* bound on T of any run on any rank; ranks * max_tokens <= MOET_MAX_ROWS */
    int32_t choices;    /* k, 1 to MOET_MAX_CHOICES */
    int32_t chunks;     /* tokens are cut into so many, one's rows travelling under another's GEMMs; 1 to 4, 0: 1.
                         * allgather: the experts' work is, by the rank that rows come from (docs/ep.md) */
    int32_t comm_sms;   /* SMs for the rows' travel, taken from the experts where chunks > 1; 0: chosen */
    int32_t timeout_ms; /* that a rank waits for another, at most; 0: 30000 */
} moet_ep_options;

/* Fills *options with zeros, 1 rank, 8 choices, SUMS for FAST and ROWS for TRAIN. */
MOET_API void moet_ep_options_init(moet_ep_options *options, moet_numerics numerics);

/* Takes rank, ranks and rendezvous from the variables of a launcher, the first of:
 *   torchrun  RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT
 *   mpirun    OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE
 *   Slurm     SLURM_PROCID, SLURM_NTASKS
 * MASTER_ADDR and MASTER_PORT hold for all; without MASTER_ADDR ranks of one host (OMPI_COMM_WORLD_LOCAL_SIZE,
 * SLURM_JOB_NUM_NODES) meet at 127.0.0.1, and without MASTER_PORT at one made of the job's number. *local is the rank
 * among those of this host, to choose a device by (may be NULL). NOT_FOUND where no launcher is there: *options is as
 * it was; INVALID for variables that are none. */
MOET_API moet_status moet_ep_launcher(moet_ep_options *options, int32_t *local);

/* Meets the other ranks and compares with them: the problem, the options, the library's version, the table's hash, the
 * kind of device and the configurations; MISMATCH on every rank names the first rank that differs and in what.
 * TIMEOUT where a rank does not come, LOST where one ends. problem: op FFN, experts of the whole layer. */
MOET_API moet_status moet_ep_create(moet_handle *handle, const moet_problem *problem, const moet_ep_options *options,
                                    moet_ep **ep);
/* Waits for the other ranks to get here too, timeout_ms at most. */
MOET_API void moet_ep_destroy(moet_ep *ep);

/* One line for people and records: "lsa over cuda, ranks=2, returns=rows, ...". Owned by the layer. */
MOET_API const char *moet_ep_describe(const moet_ep *ep);
/* The transport that runs, and whether moet_ep_run may be captured in a graph that replays with other routings. */
MOET_API const char *moet_ep_transport_name(const moet_ep *ep);
MOET_API bool moet_ep_is_graph_safe(const moet_ep *ep);
/* Device memory that the layer holds on this rank, in bytes. */
MOET_API size_t moet_ep_memory_bytes(const moet_ep *ep);

/* The local tensors of one run. L = E / ranks. Strides in elements as in moet_ffn_args. */
typedef struct moet_ep_args {
    const void *x; /* [T, H] BF16 */
    int64_t x_stride;
    const void *ids; /* [T, k] int32 or int64: experts of the whole layer, -1: none */
    bool ids_int64;
    int64_t ids_stride;
    const float *weights; /* [T, k]; may be NULL with prob NONE */
    int64_t weights_stride;
    const void *up;        /* [L, 2I, H] (nk) or [L, H, 2I] (kn) BF16: the local experts', as in moet_ffn_args */
    const void *up_bias;   /* [L, 2I] or NULL */
    const void *down;      /* [L, H, I] or [L, I, H] */
    const void *down_bias; /* [L, H] or NULL */
    void *out;             /* [T, H] BF16; must not overlap the inputs */
    int64_t out_stride;
    int64_t tokens; /* T, may be 0, and differ between ranks */
    void *stream;
} moet_ep_args;

/* Enqueues the layer. An id below -1 or of E and more is taken as -1, and so is an expert that the token has named
 * before. Without moet_ep_is_graph_safe the call waits for the counts of the other ranks, and a capture keeps the
 * counts of the run before it, whose routing must be the same, and holds until a run has others: where it does not,
 * moet_ep_wait says MISMATCH. Runs follow each other on one stream, and so do those of several layers: a GPU's kernels
 * wait for the other ranks', which must not stand behind those of another layer. On the host backend the work is done
 * on return. */
MOET_API moet_status moet_ep_run(moet_ep *ep, const moet_ep_args *args);

/* Waits until what was enqueued on the stream is done. TIMEOUT or LOST, naming a rank, within timeout_ms of the
 * call: enqueue no more than is done by then; plain synchronisation of the stream ends within that time too, but does
 * not say so. */
MOET_API moet_status moet_ep_wait(moet_ep *ep, void *stream);

#ifdef __cplusplus
}
#endif
#endif
