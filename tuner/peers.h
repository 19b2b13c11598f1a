/* peers: our bench beside those of other programs, point by point. */
#ifndef MOET_PEERS_H
#define MOET_PEERS_H

#include "bench_file.h"

#define MOET_MOST_PEERS 12

/* The peer that stands for moe-tune with a table in a bench's lines, and the one that is made of the fastest other at
 * each point. */
#define MOET_PEER_OURS "moe-tune"
#define MOET_PEER_BEST "best peer"

typedef struct moet_peer_ratio {
    double ratio;                  /* time of the peer / time of ours */
    const moet_bench_point *point; /* ours */
} moet_peer_ratio;

typedef struct moet_peer {
    char name[64];
    int32_t count;
    moet_peer_ratio *ratios; /* ascending */
    double geomean;
    int32_t slower; /* points at which ours is the slower one */
} moet_peer;

typedef struct moet_peers {
    moet_bench_file ours;
    int32_t count; /* at least 1; the last one is MOET_PEER_BEST */
    moet_peer items[MOET_MOST_PEERS];
} moet_peers;

/* INVALID: the file `path`, of a device, is compared with another one. A file need not name one (""). */
moet_status moet_peers_check_device(const char *path, const char *device, const char *other);

/* Ours is peer "moe-tune" of the file `bench`; the others are the rest of it (moe-tune-default, which counts not for
 * the best) and the points of the files. NOT_FOUND: no point of a peer is one of ours. INVALID: files of several
 * devices. */
moet_status moet_peers_read(const char *bench, const char *const *files, int32_t file_count, moet_peers *peers);
void moet_peers_release(moet_peers *peers);

#endif
