/* cublaslt_batch: which experts are multiplied as one strided batch. Pure. */
#ifndef MOET_CUBLASLT_BATCH_H
#define MOET_CUBLASLT_BATCH_H

#include "../src/moet.h"

/* Experts first to first + count - 1, each padded to height rows, which is the most that one of them has. */
typedef struct moet_lt_batch {
    int32_t first, count, height;
    int64_t rows; /* without padding */
    bool is_even; /* there is no padding */
} moet_lt_batch;

/* The longest batch from expert `first` on, which has rows, with height * count <= percent / 100 * rows. Its last
 * expert has rows. */
moet_lt_batch moet_lt_batch_next(const int32_t *counts, int32_t experts, int32_t first, int32_t percent);

#endif
