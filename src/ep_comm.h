/* ep_comm: how ranks reach each other, behind one interface. `socket` (TCP, a connection for each pair) and `mpi`
 * (OpenMPI, bound at run time) move host memory and also carry what the ranks agree on; `nccl` moves device memory on a
 * stream, and is created over one of the two.
 *
 * No call waits longer than timeout_ms for a peer: TIMEOUT then, LOST where a peer is known to be gone; both name it.
 * After such an error only destroy may follow. */
#ifndef MOET_EP_COMM_H
#define MOET_EP_COMM_H

#include "device.h"

typedef struct moet_ep_comm moet_ep_comm;

/* What goes to a rank and comes from it; sizes of 0 are nothing. Both sides give the same sizes. */
typedef struct moet_ep_part {
    const void *send;
    size_t send_bytes;
    void *recv;
    size_t recv_bytes;
} moet_ep_part;

typedef struct moet_ep_comm_table {
    const char *name;
    bool is_host; /* moves host memory; done on return */
    moet_status (*exchange)(moet_ep_comm *comm, const moet_ep_part *parts, void *stream);
    /* LOST or DEVICE where something is known to be wrong; OK otherwise. Never waits. */
    moet_status (*check)(moet_ep_comm *comm);
    /* Called once: what hangs on it is let go; check says why from then on. */
    void (*abort)(moet_ep_comm *comm);
    void (*destroy)(moet_ep_comm *comm);
} moet_ep_comm_table;

struct moet_ep_comm {
    const moet_ep_comm_table *table;
    int32_t rank, ranks, timeout_ms;
    void *impl;
};

/* rendezvous: "host:port", of rank 0. *lost is set to 1 + the rank as soon as a peer's connection ends, by a thread of
 * the communicator; NULL: not wanted. It outlives the communicator. */
moet_status moet_ep_comm_create_socket(int32_t rank, int32_t ranks, const char *rendezvous, int32_t timeout_ms,
                                       volatile int32_t *lost, moet_ep_comm **comm);
/* A port of 20000 to 29999 at which nobody listens right now: below those that systems give to outgoing connections
 * (from 32768 on Linux), so that none of the ranks' own takes it before rank 0 listens. IO: there is none. */
moet_status moet_ep_comm_find_port(int32_t *port);
/* rank and ranks must be MPI's own, MISMATCH otherwise. */
moet_status moet_ep_comm_create_mpi(int32_t rank, int32_t ranks, int32_t timeout_ms, moet_ep_comm **comm);
/* Over `control`, for the device that is current. max_ctas: SMs for NCCL's kernels, 0: its choice. UNSUPPORTED without
 * CUDA in the build, NOT_FOUND without libnccl. */
moet_status moet_ep_comm_create_nccl(moet_ep_comm *control, int32_t max_ctas, moet_ep_comm **comm);
/* Without waiting for anybody; NULL is fine. */
void moet_ep_comm_destroy(moet_ep_comm *comm);

/* parts [ranks]; the own one is not looked at. */
moet_status moet_ep_comm_exchange(moet_ep_comm *comm, const moet_ep_part *parts, void *stream);

/* Host communicators only. all [ranks][bytes], mine among them. */
moet_status moet_ep_comm_allgather(moet_ep_comm *comm, const void *mine, size_t bytes, void *all);

/* Host communicators only. Whether all ranks got as far, where this one has `status`, and have the same `text` (a
 * version); all then have rank 0's `shared`. `what` says in errors what it is about. NOT_FOUND and MISMATCH name a
 * rank. */
moet_status moet_ep_comm_agree(moet_ep_comm *comm, moet_status status, const char *what, const char *text, void *shared,
                               size_t bytes);

/* The host communicators' deadline. */
int64_t moet_ep_now_ms(void);

#endif
