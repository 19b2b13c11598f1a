/* document: man pages and shell completions, made of the tables that the commands parse by. */
#ifndef MOET_DOCUMENT_H
#define MOET_DOCUMENT_H

#include <stdio.h>

#include "command.h"

/* All commands, in the order of `moe-tune --help`. */
typedef struct moet_commands {
    const moet_command *const *items;
    int32_t count;
} moet_commands;

/* A page in man's macros: of one command, or of moe-tune as a whole where it is NULL. */
void moet_document_man(FILE *to, const moet_commands *commands, const moet_command *command);

/* A script for "bash", "zsh" or "fish"; INVALID where it is for none of them. */
moet_status moet_document_completion(FILE *to, const moet_commands *commands, const char *shell);

#endif
