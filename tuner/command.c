/* command.c: see command.h. */
#include "command.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const char moet_revision[]; /* cmake/revision.cmake writes it */

int moet_command_parse(const struct argp *argp, int argc, char **argv, void *input)
{
    argp_err_exit_status = MOET_EXIT_USAGE;
    return argp_parse(argp, argc, argv, 0, NULL, input) == 0 ? MOET_EXIT_OK : MOET_EXIT_USAGE;
}

void moet_command_check(struct argp_state *state, moet_status status)
{
    if (status != MOET_OK) {
        argp_error(state, "%s", moet_last_error());
    }
}

int moet_command_fail(moet_status status)
{
    if (status == MOET_OK) {
        return MOET_EXIT_OK;
    }
    const char *message = moet_last_error();
    moet_command_note("%s", message[0] != '\0' ? message : moet_status_name(status));
    if (status == MOET_INVALID || status == MOET_MALFORMED) {
        return MOET_EXIT_USAGE;
    }
    return status == MOET_WRONG ? MOET_EXIT_WRONG : MOET_EXIT_FAILED;
}

void moet_command_note(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    flockfile(stderr);
    fputs("moe-tune: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    funlockfile(stderr);
    va_end(args);
}

void moet_command_note_refusals(const char *table_dir, const moet_handle *handle)
{
    int32_t refused = moet_refusal_count(handle);
    if (refused > 0) {
        moet_command_note("%s: %d of %d entries refused, the first: %s", table_dir, refused,
                          refused + moet_entry_count(handle), moet_refusal(handle, 0));
    }
}

const char *moet_command_revision(void) { return moet_revision; }

/* Characters that no shell treats specially. */
static bool is_plain(const char *text)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%";
    return text[0] != '\0' && text[strspn(text, plain)] == '\0';
}

char *moet_command_line(int argc, char *const *argv)
{
    size_t size = 1;
    for (int i = 0; i < argc; i++) {
        size += 4 * strlen(argv[i]) + 3; /* a quote becomes '\'' */
    }
    char *line = malloc(size);
    if (line == NULL) {
        return NULL;
    }
    char *at = line;
    for (int i = 0; i < argc; i++) {
        if (i > 0) {
            *at++ = ' ';
        }
        if (i == 0 || is_plain(argv[i])) { /* argv[0] is two words, "moe-tune sweep" */
            at = stpcpy(at, argv[i]);
            continue;
        }
        *at++ = '\'';
        for (const char *c = argv[i]; *c != '\0'; c++) {
            if (*c == '\'') {
                at = stpcpy(at, "'\\''");
            } else {
                *at++ = *c;
            }
        }
        *at++ = '\'';
    }
    *at = '\0';
    return line;
}

void moet_command_note_next(int argc, const char *const *argv)
{
    char *line = moet_command_line(argc, (char *const *)argv);
    if (line != NULL) { /* a hint is not worth an error */
        moet_command_note("next: %s", line);
    }
    free(line);
}
