/* problem_options: the command line's options that say a problem, for every command that has them. */
#ifndef MOET_PROBLEM_OPTIONS_H
#define MOET_PROBLEM_OPTIONS_H

#include <argp.h>

#include "parse.h"

typedef struct moet_problem_options {
    bool any_given, bias_given;
    bool bias_bare; /* --bias without a value */
    moet_op_list ops;
    moet_layout_list layouts;
    moet_numerics numerics;
    bool bias, down_bias; /* of the up GEMM, of the down GEMM */
    /* op ffn */
    moet_activation activation;
    double clamp;
    moet_prob prob;
    moet_combine combine;
} moet_problem_options;

/* Ops up and down, layout nk, train, no bias; swiglu, weights in advance, combine exact. */
void moet_problem_options_default(moet_problem_options *options);

/* A child parser for a command's argp; its input, by state->child_inputs in ARGP_KEY_INIT, is a moet_problem_options.
 */
extern const struct argp moet_problem_argp;

/* The options that say a problem, "--ops up --layout nk ...", into text[MOET_PROBLEM_OPTIONS_SIZE]. */
#define MOET_PROBLEM_OPTIONS_SIZE 256
void moet_problem_options_format(const moet_problem *problem, char *text);

/* Sets what the options say of a problem whose op, shape and layout are there. */
void moet_problem_options_apply(const moet_problem_options *options, moet_problem *problem);

#endif
