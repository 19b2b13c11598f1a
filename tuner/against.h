/* against: our result beside one that a trainer dumped with its inputs, element by element, bit by bit. */
#ifndef MOET_AGAINST_H
#define MOET_AGAINST_H

#include "output.h"
#include "parse.h"

typedef struct moet_against_options {
    const char *file;         /* .npz, arrays as docs/numerics.md names them */
    const char *table;        /* folder, or NULL: family defaults */
    const char *device;       /* spec */
    moet_op_list ops;         /* none: ffn with an array ids, else up; or one */
    moet_layout_list layouts; /* none: what the shapes say, nk where they say nothing; or one */
    moet_numerics numerics;
    /* op ffn */
    moet_activation activation;
    double clamp;
    moet_prob prob;
    moet_combine combine;
    moet_output_format format;
} moet_against_options;

/* Checks the file, runs it through the runtime library, prints a row an expert to stdout and a summary to stderr.
 * *differing: elements of out whose bits differ. */
moet_status moet_against_run(const moet_against_options *options, int64_t *differing);

#endif
