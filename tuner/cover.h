/* cover: the fewest configurations that are fast enough at every tuned point. */
#ifndef MOET_COVER_H
#define MOET_COVER_H

#include <stdbool.h>
#include <stdint.h>

#include "../src/moet.h"

/* Point p takes cost[p * configs + c] with configuration c: its time over that of the point's fastest, or 0 where that
 * was not measured. allowed[p]: costs up to it are as good as the fastest (at least 1, so that every point has one that
 * is). preferred (-1: none): a configuration that comes first where it is good enough.
 *
 * chosen[p]: the configuration for p, one with an allowed cost. Their number is the least that greedy choice and then
 * the removal of what others cover find; ties go to the lower sum of costs, then to the lower index. Where several
 * chosen ones are allowed at a point, the preferred one is taken, else the fastest. O(points * configs^2). */
moet_status moet_cover(int32_t points, int32_t configs, const double *cost, const double *allowed, int32_t preferred,
                       int32_t *chosen);

#endif
