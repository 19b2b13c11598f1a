/* command: what the moe-tune commands share: their table's row, argument parsing and exit codes.
 *
 * A command is `const moet_command moet_command_<name>` in cmd_<name>.c and one line in MOET_COMMAND_TABLE. Data goes
 * to stdout, messages and progress to stderr. */
#ifndef MOET_COMMAND_H
#define MOET_COMMAND_H

#include <argp.h>

#include "../src/moet.h"

typedef struct moet_command {
    const char *name;
    const char *summary;               /* one line */
    const char *example;               /* one command line that works */
    int (*run)(int argc, char **argv); /* argv[0] is "moe-tune <name>"; returns an exit code */
    const struct argp *argp;           /* what run parses: help, man pages and completions are made of it */
} moet_command;

/* In the order in which `moe-tune --help` lists them: the way of the data. */
#define MOET_COMMAND_TABLE(X)                                                                                          \
    X(doctor)                                                                                                          \
    X(workloads)                                                                                                       \
    X(sweep) X(show) X(emit) X(diff) X(merge) X(bench) X(compare) X(regret) X(verify) X(recheck) X(profile) X(plot)    \
        X(report) X(ep)
#define MOET_X(name) extern const moet_command moet_command_##name;
MOET_COMMAND_TABLE(MOET_X)
#undef MOET_X

typedef enum moet_exit {
    MOET_EXIT_OK = 0,
    MOET_EXIT_FAILED = 1, /* also: interrupted */
    MOET_EXIT_USAGE = 2,  /* arguments or an input file are invalid */
    MOET_EXIT_WRONG = 3,  /* a result differs from the reference */
    MOET_EXIT_SLOWER = 4  /* slower than asked for */
} moet_exit;

/* argp's doc text: summary before the options; example, and any further text, after them. Literals only. */
#define MOET_COMMAND_DOC(summary, example, text) summary "\vExample:\n  " example "\n\n" text

/* Parses argv into input by argp. MOET_EXIT_OK; or MOET_EXIT_USAGE with the error on stderr. --help ends the process
 * with 0. Parser functions report a bad value by argp_error(state, ...), which ends the process with 2. */
int moet_command_parse(const struct argp *argp, int argc, char **argv, void *input);

/* For argp parsers: argp_error with the thread's last moet error where status is none of OK. */
void moet_command_check(struct argp_state *state, moet_status status);

/* Prints "moe-tune: <last error>" to stderr and returns the exit code of a status: INVALID and MALFORMED are
 * MOET_EXIT_USAGE, WRONG is MOET_EXIT_WRONG, the rest MOET_EXIT_FAILED. MOET_OK prints nothing and is MOET_EXIT_OK. */
int moet_command_fail(moet_status status);

/* "moe-tune: ..." on stderr. */
__attribute__((format(printf, 1, 2))) void moet_command_note(const char *format, ...);

/* On stderr how many entries of the handle's table are refused, and the first of them; nothing where there is none. */
void moet_command_note_refusals(const char *table_dir, const moet_handle *handle);

/* Source revision of this program: "v0.1.0-12-gabc1234", "release" where it was built outside a git checkout, "unknown"
 * where git could not say. */
const char *moet_command_revision(void);

/* argv as a line that a shell reads back, malloc'd; NULL only without memory. */
char *moet_command_line(int argc, char *const *argv);

/* "moe-tune: next: LINE" on stderr, of such words. */
void moet_command_note_next(int argc, const char *const *argv);

#endif
