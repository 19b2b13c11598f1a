/* import: a trace's passes as workloads of one rank each, and a few of them that stand for all. */
#ifndef MOET_IMPORT_H
#define MOET_IMPORT_H

#include "trace.h"
#include "workload.h"

typedef struct moet_import_options {
    const char *name; /* of the workloads, "deepseek-v3/ep32" */
    int32_t hidden, inter;
    int32_t ranks;  /* that share the experts: rank r has the r-th block of experts / ranks */
    int32_t rank;   /* of which to make workloads; -1: of all */
    int64_t divide; /* counts are sums over so many passes, and are divided, rounded to nearest */
} moet_import_options;

/* Adds one workload a pass and rank with rows; *empty grows by those without. Their skew says whence they are:
 * "trace:s12:l3:r5", step, layer and rank. INVALID, with path: ranks that do not divide the experts, more than
 * MOET_MAX_EXPERTS a rank, more than MOET_MAX_ROWS rows. */
moet_status moet_import_trace(const moet_trace *trace, const char *path, const moet_import_options *options,
                              moet_workloads *list, int64_t *empty);

/* How far two workloads of one shape are from each other:
 *
 *   hypot(ln(rows / rows'), ln(max_over_mean / max_over_mean'), gini - gini', ln(tokens / tokens'))
 *
 * The first two are how a table measures how near a tuned point is (MOET_NEAREST_LIMIT); the Gini coefficient, 0 to 1,
 * tells those apart whose busiest expert is the same; tokens count where both say them. */
double moet_workload_distance(const moet_workload *a, const moet_workload *b);

typedef struct moet_cluster_summary {
    int64_t different; /* workloads that were not equal: shape, tokens, counts */
    double distance;   /* the farthest that a workload is from the one that stands for it */
} moet_cluster_summary;

/* Chooses at most `clusters` workloads of each shape (experts, hidden, inter, with tokens or without) that stand for
 * all: k-means++ and Lloyd's rounds (Arthur, Vassilvitskii 2007) in the coordinates of moet_workload_distance, weights
 * counted; of each cluster the workload nearest to its centre; each workload then goes to the nearest of those. A
 * chosen one's weight is its share of all weights. clusters 0: every different workload. Heaviest first; the same
 * list, clusters and seed give the same workloads in the same order. */
moet_status moet_workloads_cluster(const moet_workloads *list, int32_t clusters, uint64_t seed, moet_workloads *chosen,
                                   moet_cluster_summary *summary);

#endif
