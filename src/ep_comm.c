#include "ep_comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int64_t moet_ep_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void moet_ep_comm_destroy(moet_ep_comm *comm)
{
    if (comm) comm->table->destroy(comm);
}

moet_status moet_ep_comm_exchange(moet_ep_comm *comm, const moet_ep_part *parts, void *stream)
{
    return comm->ranks > 1 ? comm->table->exchange(comm, parts, stream) : MOET_OK;
}

moet_status moet_ep_comm_allgather(moet_ep_comm *comm, const void *mine, size_t bytes, void *all)
{
    moet_ep_part *parts = calloc((size_t)comm->ranks, sizeof *parts);
    if (!parts) return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    for (int32_t i = 0; i < comm->ranks; i++)
        parts[i] = (moet_ep_part){mine, bytes, (char *)all + (size_t)i * bytes, bytes};
    moet_status status = moet_ep_comm_exchange(comm, parts, NULL);
    if (status == MOET_OK) memcpy((char *)all + (size_t)comm->rank * bytes, mine, bytes);
    free(parts);
    return status;
}

moet_status moet_ep_comm_agree(moet_ep_comm *comm, moet_status status, const char *what, const char *text, void *shared,
                               size_t bytes)
{
    enum { TEXT_SIZE = 64 };
    const size_t size = TEXT_SIZE + bytes;
    char *own = calloc((size_t)comm->ranks + 1, size), *all = own + size, why[512];
    if (!own) return moet_fail(MOET_NO_MEMORY, "expert parallelism: out of host memory");
    snprintf(why, sizeof why, "%s", moet_last_error());
    if (status == MOET_OK) {
        snprintf(own, TEXT_SIZE, "%s", text);
        if (bytes) memcpy(own + TEXT_SIZE, shared, bytes);
    }
    moet_status gathered = moet_ep_comm_allgather(comm, own, size, all);
    for (int32_t i = 0; i < comm->ranks && gathered == MOET_OK; i++) {
        const char *other = all + (size_t)i * size;
        if (!other[0])
            gathered = moet_fail(MOET_NOT_FOUND, "%s: rank %d cannot, as it says itself", what, i);
        else if (strncmp(other, own, TEXT_SIZE) != 0)
            gathered =
                moet_fail(MOET_MISMATCH, "%s: rank %d has %.63s, rank %d has %.63s", what, i, other, comm->rank, own);
    }
    if (status != MOET_OK) gathered = moet_fail(status, "%s", why);
    if (gathered == MOET_OK && bytes) memcpy(shared, all + TEXT_SIZE, bytes);
    free(own);
    return gathered;
}
