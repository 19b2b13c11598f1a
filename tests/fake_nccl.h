/* fake_nccl: an NCCL and an NCCL EP whose devices are processes of this host and whose memory is the host's, built
 * under the real libraries' names for the tests of the transport nccl_ep. They refuse what the real ones refuse, or
 * would go wrong on, and compute what those compute, in plain loops; every call is done on return.
 *
 * Environment: FAKE_NCCL_VERSION and FAKE_NCCL_EP_VERSION (numbers as the libraries give them); FAKE_NCCL_LACKS=device
 * (no device API), network (two hosts without GIN) or windows; FAKE_NCCL_SLEEPS=N: rank N never gets to the others. */
#ifndef FAKE_NCCL_H
#define FAKE_NCCL_H

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../src/nccl_api.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes" /* the real headers have them */
#define FAKE_EXPORT __attribute__((visibility("default")))
enum { FAKE_OK = 0, FAKE_INTERNAL = 3, FAKE_INVALID = 4 };

/* Shared memory of the ranks: a barrier, then an area for each. */
typedef struct fake_board {
    atomic_int arrived, generation;
} fake_board;

enum { FAKE_BOARD_HEAD = 4096, FAKE_AREA = 16 << 20 };

typedef struct fake_comm {
    int rank, ranks;
    fake_board *board;
} fake_comm;

typedef struct fake_window {
    char *memory;
    size_t bytes;
} fake_window;

static inline char *fake_area(const fake_comm *comm, int rank)
{
    return (char *)comm->board + FAKE_BOARD_HEAD + (size_t)rank * FAKE_AREA;
}

/* Waits without a clock, as the real ones do. */
static inline void fake_barrier(const fake_comm *comm)
{
    fake_board *b = comm->board;
    const int generation = atomic_load(&b->generation);
    if (atomic_fetch_add(&b->arrived, 1) + 1 == comm->ranks) {
        atomic_store(&b->arrived, 0);
        atomic_store(&b->generation, generation + 1);
        return;
    }
    for (int turn = 0; atomic_load(&b->generation) == generation; turn++) {
        if (turn < 100)
            sched_yield();
        else
            usleep(50);
    }
}

static inline int fake_number(const char *variable, int otherwise)
{
    const char *text = getenv(variable);
    return text ? atoi(text) : otherwise;
}

static inline bool fake_lacks(const char *what)
{
    const char *text = getenv("FAKE_NCCL_LACKS");
    return text && strcmp(text, what) == 0;
}

#endif
