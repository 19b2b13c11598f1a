/* peers.c: see peers.h. */
#include "peers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/status.h"

static int by_ratio(const void *a, const void *b)
{
    const double x = ((const moet_peer_ratio *)a)->ratio, y = ((const moet_peer_ratio *)b)->ratio;
    return (x > y) - (x < y);
}

/* The peer of a name, added where it is new; NULL without memory or for one too many. */
static moet_peer *find_peer(moet_peers *peers, const char *name)
{
    for (int32_t i = 0; i < peers->count; i++) {
        if (strcmp(peers->items[i].name, name) == 0) {
            return &peers->items[i];
        }
    }
    if (peers->count == MOET_MOST_PEERS) {
        return NULL;
    }
    moet_peer *added = &peers->items[peers->count++];
    *added = (moet_peer){.ratios = calloc((size_t)peers->ours.count, sizeof *added->ratios)};
    snprintf(added->name, sizeof added->name, "%s", name);
    return added->ratios != NULL ? added : NULL;
}

static moet_status add_ratio(moet_peers *peers, const char *name, double ratio, const moet_bench_point *point)
{
    moet_peer *peer = find_peer(peers, name);
    if (peer == NULL) {
        return moet_fail(MOET_INVALID, "more than %d peers, or no memory for them", MOET_MOST_PEERS);
    }
    if (peer->count < peers->ours.count) { /* a file may be given twice */
        peer->ratios[peer->count++] = (moet_peer_ratio){ratio, point};
    }
    return MOET_OK;
}

/* Every point of ours against those of the same workload in a file; best[i] stays the least of point i. */
static moet_status match(moet_peers *peers, const moet_bench_file *theirs, moet_peer_ratio *best)
{
    for (int32_t i = 0; i < peers->ours.count; i++) {
        const moet_bench_point *own = &peers->ours.points[i];
        for (int32_t k = 0; k < theirs->count && strcmp(own->peer, MOET_PEER_OURS) == 0; k++) {
            const moet_bench_point *other = &theirs->points[k];
            if (strcmp(other->peer, MOET_PEER_OURS) == 0 || !moet_bench_point_matches(own, other)) {
                continue;
            }
            const double ratio = other->time_us / own->time_us;
            MOET_TRY(add_ratio(peers, other->peer, ratio, own));
            const bool is_ours = strncmp(other->peer, MOET_PEER_OURS, strlen(MOET_PEER_OURS)) == 0;
            if (!is_ours && (best[i].point == NULL || ratio < best[i].ratio)) {
                best[i] = (moet_peer_ratio){ratio, own};
            }
        }
    }
    return MOET_OK;
}

static void summarize(moet_peer *peer)
{
    double sum = 0;
    qsort(peer->ratios, (size_t)peer->count, sizeof *peer->ratios, by_ratio);
    for (int32_t i = 0; i < peer->count; i++) {
        sum += log(peer->ratios[i].ratio);
        peer->slower += peer->ratios[i].ratio < 1;
    }
    peer->geomean = exp(sum / peer->count);
}

moet_status moet_peers_check_device(const char *path, const char *device, const char *other)
{
    if (device[0] == '\0' || other[0] == '\0' || strcmp(device, other) == 0) {
        return MOET_OK;
    }
    return moet_fail(MOET_INVALID, "%s is of '%s', not of '%s': give benches of one device", path, device, other);
}

moet_status moet_peers_read(const char *bench, const char *const *files, int32_t file_count, moet_peers *peers)
{
    moet_peers result = {.count = 0};
    moet_peer_ratio *best = NULL;
    moet_status status = moet_bench_file_read(bench, &result.ours);
    if (status == MOET_OK) {
        best = calloc((size_t)result.ours.count + 1, sizeof *best);
        status = best != NULL ? match(&result, &result.ours, best)
                              : moet_fail(MOET_NO_MEMORY, "%s: no memory for %d points", bench, result.ours.count);
    }
    for (int32_t f = 0; f < file_count && status == MOET_OK; f++) {
        moet_bench_file theirs = {.count = 0};
        status = moet_bench_file_read(files[f], &theirs);
        if (status == MOET_OK) status = moet_peers_check_device(files[f], theirs.device, result.ours.device);
        if (status == MOET_OK) status = match(&result, &theirs, best);
        moet_bench_file_release(&theirs);
    }
    int32_t compared = 0;
    for (int32_t i = 0; i < result.ours.count && status == MOET_OK; i++) {
        if (best[i].point != NULL) {
            status = add_ratio(&result, MOET_PEER_BEST, best[i].ratio, best[i].point);
            compared++;
        }
    }
    if (status == MOET_OK && compared == 0) {
        status =
            file_count == 0
                ? moet_fail(MOET_NOT_FOUND,
                            "%s: no other program's times: give what bench/peers/peers.py printed (--peers)", bench)
                : moet_fail(MOET_NOT_FOUND,
                            "no point of a peer is one of moe-tune's: give benches of the same workloads");
    }
    free(best);
    if (status != MOET_OK) {
        moet_peers_release(&result);
        return status;
    }
    for (int32_t i = 0; i < result.count; i++) {
        summarize(&result.items[i]);
    }
    *peers = result;
    return MOET_OK;
}

void moet_peers_release(moet_peers *peers)
{
    for (int32_t i = 0; i < peers->count; i++) {
        free(peers->items[i].ratios);
    }
    moet_bench_file_release(&peers->ours);
    *peers = (moet_peers){.count = 0};
}
