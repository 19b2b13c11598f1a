/* against: our result beside one that a trainer dumped with its inputs, element by element, bit by bit. */
#ifndef MOET_AGAINST_H
#define MOET_AGAINST_H

#include "output.h"
#include "problem_options.h"

typedef struct moet_against_options {
    const char *file;   /* .npz, arrays as docs/numerics.md names them */
    const char *table;  /* folder, or NULL: family defaults */
    const char *device; /* spec */
    /* ops none: ffn with an array ids, else up; or one. layouts none: what the shapes say, nk where they say nothing;
     * or one. Biases are those of the file. */
    moet_problem_options problem;
    moet_output_format format;
} moet_against_options;

/* Checks the file, runs it through the runtime library, prints a row an expert to stdout and a summary to stderr.
 * *differing: elements of out whose bits differ. */
moet_status moet_against_run(const moet_against_options *options, int64_t *differing);

#endif
