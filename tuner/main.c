/* main: the moe-tune program: finds the command and runs it. */
#include "command.h"
#include "document.h"
#include "parse.h"
#include "worker_process.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define COMMAND_NAME_SIZE 64

static const moet_command *const commands[] = {
#define MOET_X(name) &moet_command_##name,
    MOET_COMMAND_TABLE(MOET_X)
#undef MOET_X
};
#define COMMAND_COUNT (sizeof commands / sizeof commands[0])

static const moet_command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i]->name, name) == 0) {
            return commands[i];
        }
    }
    return NULL;
}

static int fail_unknown(const char *name)
{
    const moet_command *nearest = NULL;
    int32_t best = 3; /* further away is no slip of the finger */
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        int32_t distance = moet_text_distance(name, commands[i]->name);
        if (distance < best || (name[0] != '\0' && strncmp(name, commands[i]->name, strlen(name)) == 0)) {
            best = distance < best ? distance : best;
            nearest = commands[i];
        }
    }
    if (nearest != NULL) {
        moet_command_note("no command '%.32s': did you mean '%s'?", name, nearest->name);
    } else {
        moet_command_note("no command '%.32s': `moe-tune --help` lists the commands", name);
    }
    return MOET_EXIT_USAGE;
}

static const moet_commands all_commands = {commands, (int32_t)COMMAND_COUNT};

static void print_help(FILE *to)
{
    fputs("Usage: moe-tune COMMAND [OPTION...]\n"
          "Finds the fastest kernels for the experts of a mixture-of-experts layer on this machine.\n\n",
          to);
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        fprintf(to, "  %-11s%s\n", commands[i]->name, commands[i]->summary);
    }
    fputs("\nFrom nothing to a table that a program can load, and what it gains:\n", to);
    static const moet_command *const way[] = {&moet_command_sweep, &moet_command_show, &moet_command_emit,
                                              &moet_command_bench};
    for (size_t i = 0; i < sizeof way / sizeof way[0]; i++) {
        fprintf(to, "  %s\n", way[i]->example);
    }
    fputs("\n`moe-tune COMMAND --help` or `moe-tune help COMMAND`: a command's options and an example.\n"
          "`moe-tune help --man [COMMAND]`, `moe-tune help --completion bash|zsh|fish`: both as files.\n"
          "`moe-tune --version`: version and source revision.\n"
          "Exit codes: 0 done, 1 failed or interrupted, 2 usage or malformed input, 3 a result is wrong,\n"
          "4 slower than asked for.\n",
          to);
}

/* A full disk or a closed pipe shows only at the end. */
static int finish(int code)
{
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == MOET_EXIT_OK) {
        moet_command_note("writing to standard output failed: %s", strerror(errno));
        code = MOET_EXIT_FAILED;
    }
    return code;
}

static int run_command(const moet_command *command, int argc, char **argv)
{
    char name[COMMAND_NAME_SIZE];
    snprintf(name, sizeof name, "moe-tune %s", command->name);
    argv[0] = name;
    return finish(command->run(argc, argv));
}

/* moe-tune help [COMMAND | --man [COMMAND] | --completion SHELL], of which argv has what follows `help`. */
static int run_help(int argc, char **argv)
{
    const bool wants_man = argc > 0 && strcmp(argv[0], "--man") == 0;
    const bool wants_completion = argc > 0 && strcmp(argv[0], "--completion") == 0;
    const int name_at = wants_man ? 1 : 0;
    const moet_command *command = NULL;
    if (wants_completion) {
        return moet_command_fail(moet_document_completion(stdout, &all_commands, argc > 1 ? argv[1] : "(none given)"));
    }
    if (argc > name_at) {
        command = find_command(argv[name_at]);
        if (command == NULL) {
            return fail_unknown(argv[name_at]);
        }
    }
    if (wants_man) {
        moet_document_man(stdout, &all_commands, command);
        return MOET_EXIT_OK;
    }
    if (command == NULL) {
        print_help(stdout);
        return MOET_EXIT_OK;
    }
    char help[] = "--help";
    char *help_argv[] = {NULL, help, NULL};
    return run_command(command, 2, help_argv);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return MOET_EXIT_USAGE;
    }
    const char *word = argv[1];
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        printf("moe-tune %s (source %s)\n", MOET_VERSION_TEXT, moet_command_revision());
        return MOET_EXIT_OK;
    }
    if (strcmp(word, MOET_WORKER_WORD) == 0) {
        return moet_worker_main(argc - 1, argv + 1);
    }
    if (strcmp(word, "help") == 0) {
        return finish(run_help(argc - 2, argv + 2));
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-?") == 0 || strcmp(word, "-h") == 0) {
        print_help(stdout);
        return finish(MOET_EXIT_OK);
    }
    const moet_command *command = find_command(word);
    if (command == NULL) {
        return fail_unknown(word);
    }
    return run_command(command, argc - 1, argv + 1);
}
