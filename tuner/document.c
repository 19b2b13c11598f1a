/* document: see document.h. */
#include "document.h"

#include <ctype.h>
#include <string.h>

#include "../src/status.h"

/* ---- what an argp table holds ---- */

typedef void (*option_visitor)(const struct argp_option *option, void *context);

/* A heading, which has a doc only, or an option; `--help` and `--usage`, which argp adds, are not among them. */
static void visit_options(const struct argp *argp, option_visitor visit, void *context)
{
    if (argp == NULL) {
        return;
    }
    for (const struct argp_option *o = argp->options; o != NULL && (o->name != NULL || o->key != 0 || o->doc != NULL);
         o++) {
        if ((o->flags & OPTION_HIDDEN) == 0) {
            visit(o, context);
        }
    }
    for (const struct argp_child *child = argp->children; child != NULL && child->argp != NULL; child++) {
        const struct argp_option heading = {.doc = child->header};
        if (child->header != NULL) {
            visit(&heading, context);
        }
        visit_options(child->argp, visit, context);
    }
}

static const struct argp_option added_by_argp[] = {{.name = "help", .key = '?', .doc = "Give this help list"},
                                                   {.name = "usage", .doc = "Give a short usage message"}};

static void visit_all_options(const moet_command *command, option_visitor visit, void *context)
{
    visit_options(command->argp, visit, context);
    for (size_t i = 0; i < sizeof added_by_argp / sizeof added_by_argp[0]; i++) {
        visit(&added_by_argp[i], context);
    }
}

/* ---- man ---- */

/* What the environment says to the program, and to every program with libmoet. */
static const struct {
    const char *name, *meaning;
} environment[] = {
    {"MOET_TABLE", "A table's folder that replaces the one that a program opens, or \"off\" for none."},
    {"MOET_CACHE_DIR", "Where compiled kernels are kept; default $XDG_CACHE_HOME/moe-tune, then ~/.cache/moe-tune. "
                       "Where it cannot be written each process compiles anew; `moe-tune doctor` says so."},
    {"MOET_LINE_INFO", "A folder: kernels are compiled with line information and their sources written there, for a "
                       "profiler."},
};

/* Roff's own characters as text. At the start of a line a point or quote would be a request. */
static void put_roff(FILE *to, const char *text, size_t length)
{
    bool at_start = true;
    for (size_t i = 0; i < length; i++) {
        if (at_start && (text[i] == '.' || text[i] == '\'')) {
            fputs("\\&", to);
        }
        if (text[i] == '\\') {
            fputs("\\e", to);
        } else if (text[i] == '-') {
            fputs("\\-", to);
        } else {
            fputc(text[i], to);
        }
        at_start = text[i] == '\n';
    }
}

static void put_roff_line(FILE *to, const char *text)
{
    put_roff(to, text, strlen(text));
    fputc('\n', to);
}

static void put_man_option(const struct argp_option *o, void *context)
{
    FILE *to = context;
    if (o->name == NULL) {
        fputs(".SS ", to);
        put_roff_line(to, o->doc);
        return;
    }
    fputs(".TP\n", to);
    if (o->key > ' ' && o->key < 127) {
        fprintf(to, "\\fB\\-%c\\fR, ", o->key);
    }
    fputs("\\fB\\-\\-", to);
    put_roff(to, o->name, strlen(o->name));
    fputs("\\fR", to);
    if (o->arg != NULL) {
        const bool is_optional = (o->flags & OPTION_ARG_OPTIONAL) != 0;
        fputs(is_optional ? "[=\\fI" : "=\\fI", to);
        put_roff(to, o->arg, strlen(o->arg));
        fputs(is_optional ? "\\fR]" : "\\fR", to);
    }
    fputc('\n', to);
    put_roff_line(to, o->doc);
}

/* Lines that begin with two blanks are commands, and stay lines; the others are filled. Empty ones part paragraphs. */
static void put_man_text(FILE *to, const char *text)
{
    bool is_example = false, is_apart = false;
    while (*text != '\0') {
        const size_t length = strcspn(text, "\n");
        if (length == 0) {
            is_apart = true;
        } else {
            const bool was_example = is_example;
            is_example = strncmp(text, "  ", 2) == 0;
            if (was_example && !is_example) {
                fputs(".fi\n", to);
            }
            if (is_apart || was_example != is_example) {
                fputs(".PP\n", to);
            }
            if (is_example && !was_example) {
                fputs(".nf\n", to);
            }
            put_roff(to, text, length);
            fputc('\n', to);
            is_apart = false;
        }
        text += length + (text[length] == '\n');
    }
    if (is_example) {
        fputs(".fi\n", to);
    }
}

static void put_man_head(FILE *to, const char *title, const char *name, const char *summary)
{
    fprintf(to, ".TH %s 1 \"\" \"moe\\-tune %s\" \"moe\\-tune\"\n.SH NAME\n", title, MOET_VERSION_TEXT);
    put_roff(to, name, strlen(name));
    fputs(" \\- ", to);
    put_roff_line(to, summary);
}

static void put_man_command(FILE *to, const moet_command *command)
{
    char title[64], name[64];
    snprintf(title, sizeof title, "MOE\\-TUNE\\-%s", command->name);
    for (char *c = title; *c != '\0'; c++) {
        *c = (char)toupper((unsigned char)*c);
    }
    snprintf(name, sizeof name, "moe-tune-%s", command->name);
    put_man_head(to, title, name, command->summary);
    fputs(".SH SYNOPSIS\n.B moe\\-tune ", to);
    put_roff_line(to, command->name);
    fputs("[\\fIOPTION\\fR...]\n", to);
    if (command->argp->args_doc != NULL) {
        put_roff_line(to, command->argp->args_doc);
    }
    const char *doc = command->argp->doc, *after = strchr(doc, '\v');
    size_t before = after != NULL ? (size_t)(after - doc) : strlen(doc);
    fputs(".SH DESCRIPTION\n", to);
    put_roff(to, doc, before);
    fputs("\n.SH OPTIONS\n", to);
    visit_all_options(command, put_man_option, to);
    if (after != NULL) {
        fputs(".SH NOTES\n", to);
        put_man_text(to, after + 1);
    }
    fputs(".SH SEE ALSO\n.BR moe\\-tune (1)\n", to);
}

static void put_man_program(FILE *to, const moet_commands *commands)
{
    put_man_head(to, "MOE\\-TUNE", "moe-tune",
                 "find the fastest kernels for the experts of a mixture-of-experts layer");
    fputs(".SH SYNOPSIS\n.B moe\\-tune\n\\fICOMMAND\\fR [\\fIOPTION\\fR...]\n.SH COMMANDS\n", to);
    for (int32_t i = 0; i < commands->count; i++) {
        fprintf(to, ".TP\n.BR moe\\-tune\\-%s (1)\n", commands->items[i]->name);
        put_roff_line(to, commands->items[i]->summary);
    }
    fputs(".SH EXAMPLES\n.nf\n", to);
    for (int32_t i = 0; i < commands->count; i++) {
        put_roff_line(to, commands->items[i]->example);
    }
    fputs(".fi\n.SH ENVIRONMENT\n", to);
    for (size_t i = 0; i < sizeof environment / sizeof environment[0]; i++) {
        fprintf(to, ".TP\n.B %s\n", environment[i].name);
        put_roff_line(to, environment[i].meaning);
    }
    fputs(".SH EXIT STATUS\n0 done, 1 failed or interrupted, 2 usage or malformed input, 3 a result is wrong, 4 slower "
          "than asked for.\n",
          to);
}

void moet_document_man(FILE *to, const moet_commands *commands, const moet_command *command)
{
    if (command != NULL) {
        put_man_command(to, command);
    } else {
        put_man_program(to, commands);
    }
}

/* ---- completions ---- */

#define MOET_X(name, text) text,
/* Words that an option may take. It takes those that its doc names: not every command's --format is the same. */
static const struct {
    const char *option, *words[8];
} word_lists[] = {
    {"device", {"auto", "host", "cuda"}},
    {"format", {"auto", "text", "csv", "jsonl", "json", "npy", "workloads"}},
    {"ops", {MOET_OP_TABLE(MOET_X)}},
    {"layout", {MOET_LAYOUT_TABLE(MOET_X)}},
    {"numerics", {MOET_NUMERICS_TABLE(MOET_X)}},
    {"activation", {MOET_ACTIVATION_TABLE(MOET_X)}},
    {"prob", {MOET_PROB_TABLE(MOET_X)}},
    {"combine", {MOET_COMBINE_TABLE(MOET_X)}},
    {"bias", {"yes", "no", "up", "down"}},
    {"effort", {"quick", "normal", "exhaustive"}},
    {"tool", {"ncu", "nsys", "none"}},
    {"net", {"auto", "socket", "mpi"}},
    {"transport", {"auto", "lsa", "lsa_joint", "allgather", "exchange", "bound", "nccl_ep"}},
    {"returns", {"rows", "sums"}},
};
#undef MOET_X

typedef enum argument_kind {
    ARGUMENT_NONE,
    ARGUMENT_WORDS,
    ARGUMENT_FILE,
    ARGUMENT_FOLDER,
    ARGUMENT_OTHER
} argument_kind;

static bool is_named(const struct argp_option *o, const char *word)
{
    return strstr(o->doc, word) != NULL || strstr(o->arg, word) != NULL;
}

/* The list of which an option takes words; NULL without any. */
static const char *const *find_words(const struct argp_option *o)
{
    for (size_t i = 0; i < sizeof word_lists / sizeof word_lists[0]; i++) {
        if (strcmp(word_lists[i].option, o->name) != 0) {
            continue;
        }
        for (const char *const *word = word_lists[i].words; *word != NULL; word++) {
            if (is_named(o, *word)) {
                return word_lists[i].words;
            }
        }
    }
    return NULL;
}

static void put_words(FILE *to, const struct argp_option *o)
{
    const char *before = "";
    for (const char *const *word = find_words(o); *word != NULL; word++) {
        if (is_named(o, *word)) {
            fprintf(to, "%s%s", before, *word);
            before = " ";
        }
    }
}

static argument_kind find_kind(const struct argp_option *o)
{
    if (o->arg == NULL) {
        return ARGUMENT_NONE;
    }
    if (find_words(o) != NULL) {
        return ARGUMENT_WORDS;
    }
    if (strcmp(o->arg, "DIR") == 0) {
        return ARGUMENT_FOLDER;
    }
    const size_t length = strlen(o->arg);
    const bool is_file = strcmp(o->arg, "FILE") == 0 || (length > 3 && strcmp(o->arg + length - 3, ".db") == 0);
    return is_file ? ARGUMENT_FILE : ARGUMENT_OTHER;
}

typedef struct completion {
    FILE *to;
    const moet_command *command;
    argument_kind wanted; /* bash: the options whose argument is of this kind */
} completion;

/* Up to the first end of a sentence, without what shells or zsh's specs take for their own. */
static void put_short_doc(FILE *to, const char *doc)
{
    for (const char *c = doc; *c != '\0' && !(c[0] == ':' && c[1] == ' ') && *c != ';' && *c != '('; c++) {
        if (strchr("'\"`[]\\$:", *c) == NULL && !(c[0] == ' ' && c[1] == '(')) {
            fputc(*c, to);
        }
    }
}

static void put_bash_option(const struct argp_option *o, void *context)
{
    completion *c = context;
    if (o->name != NULL) {
        fprintf(c->to, " --%s%s", o->name, o->arg != NULL && (o->flags & OPTION_ARG_OPTIONAL) == 0 ? "=" : "");
    }
}

static void put_bash_argument(const struct argp_option *o, void *context)
{
    completion *c = context;
    if (o->name == NULL || find_kind(o) != c->wanted) {
        return;
    }
    if (c->wanted == ARGUMENT_WORDS) {
        fprintf(c->to, "    %s:--%s) words='", c->command->name, o->name);
        put_words(c->to, o);
        fputs("' ;;\n", c->to);
    } else {
        fprintf(c->to, "    %s:--%s) kind=-%c ;;\n", c->command->name, o->name,
                c->wanted == ARGUMENT_FOLDER ? 'd' : 'f');
    }
}

static void put_bash(FILE *to, const moet_commands *commands)
{
    fputs("# bash completion of moe-tune; made by `moe-tune help --completion bash`\n"
          "_moe_tune() {\n"
          "  local cur=${COMP_WORDS[COMP_CWORD]} option= words= kind=-f command=${COMP_WORDS[1]}\n"
          "  COMPREPLY=()\n"
          "  if [ \"$COMP_CWORD\" = 1 ]; then\n"
          "    COMPREPLY=($(compgen -W 'help --help --version",
          to);
    for (int32_t i = 0; i < commands->count; i++) {
        fprintf(to, " %s", commands->items[i]->name);
    }
    fputs("' -- \"$cur\"))\n"
          "    return\n"
          "  fi\n"
          "  # Words break at '=': --option = value, or --option value.\n"
          "  if [ \"$cur\" = = ]; then\n"
          "    option=${COMP_WORDS[COMP_CWORD - 1]} cur=\n"
          "  elif [ \"${COMP_WORDS[COMP_CWORD - 1]}\" = = ]; then\n"
          "    option=${COMP_WORDS[COMP_CWORD - 2]}\n"
          "  elif [[ ${COMP_WORDS[COMP_CWORD - 1]} == --* ]]; then\n"
          "    option=${COMP_WORDS[COMP_CWORD - 1]}\n"
          "  fi\n"
          "  case $command:$option in\n",
          to);
    static const argument_kind kinds[] = {ARGUMENT_WORDS, ARGUMENT_FOLDER, ARGUMENT_FILE};
    for (int32_t i = 0; i < commands->count; i++) {
        for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
            completion c = {to, commands->items[i], kinds[k]};
            visit_all_options(commands->items[i], put_bash_argument, &c);
        }
    }
    fputs("    *) option= ;;\n"
          "  esac\n"
          "  if [ -z \"$option\" ] && [[ $cur == -* ]]; then\n"
          "    case $command in\n",
          to);
    for (int32_t i = 0; i < commands->count; i++) {
        completion c = {to, commands->items[i], ARGUMENT_NONE};
        fprintf(to, "    %s) words='", commands->items[i]->name);
        visit_all_options(commands->items[i], put_bash_option, &c);
        fputs("' ;;\n", to);
    }
    fputs("    esac\n"
          "  fi\n"
          "  if [ -n \"$words\" ]; then\n"
          "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
          "    [[ ${COMPREPLY[0]} != *= ]] || compopt -o nospace 2>/dev/null\n"
          "  else\n"
          "    compopt -o filenames 2>/dev/null\n"
          "    COMPREPLY=($(compgen $kind -- \"$cur\"))\n"
          "  fi\n"
          "}\n"
          "complete -F _moe_tune moe-tune\n",
          to);
}

static void put_zsh_option(const struct argp_option *o, void *context)
{
    completion *c = context;
    if (o->name == NULL) {
        return;
    }
    const argument_kind kind = find_kind(o);
    const bool is_optional = (o->flags & OPTION_ARG_OPTIONAL) != 0;
    fprintf(c->to, " \\\n        '--%s%s[", o->name, kind == ARGUMENT_NONE ? "" : is_optional ? "=-" : "=");
    put_short_doc(c->to, o->doc);
    fputc(']', c->to);
    if (kind != ARGUMENT_NONE) {
        fprintf(c->to, "%s%s:", is_optional ? "::" : ":", o->name);
    }
    if (kind == ARGUMENT_WORDS) {
        fputc('(', c->to);
        put_words(c->to, o);
        fputc(')', c->to);
    } else if (kind == ARGUMENT_FILE) {
        fputs("_files", c->to);
    } else if (kind == ARGUMENT_FOLDER) {
        fputs("_files -/", c->to);
    }
    fputc('\'', c->to);
}

static void put_zsh(FILE *to, const moet_commands *commands)
{
    fputs("#compdef moe-tune\n# made by `moe-tune help --completion zsh`\n_moe_tune() {\n"
          "  local -a commands\n  commands=(\n    'help:help of a command'\n",
          to);
    for (int32_t i = 0; i < commands->count; i++) {
        fprintf(to, "    '%s:", commands->items[i]->name);
        put_short_doc(to, commands->items[i]->summary);
        fputs("'\n", to);
    }
    fputs("  )\n  if (( CURRENT == 2 )); then\n    _describe command commands\n    return\n  fi\n"
          "  local command=$words[2]\n  shift words\n  (( CURRENT-- ))\n  case $command in\n",
          to);
    for (int32_t i = 0; i < commands->count; i++) {
        completion c = {to, commands->items[i], ARGUMENT_NONE};
        fprintf(to, "    %s)\n      _arguments", commands->items[i]->name);
        visit_all_options(commands->items[i], put_zsh_option, &c);
        fprintf(to, "%s ;;\n", commands->items[i]->argp->args_doc != NULL ? " \\\n        '*:file:_files'" : "");
    }
    fputs("  esac\n}\n_moe_tune \"$@\"\n", to);
}

static void put_fish_option(const struct argp_option *o, void *context)
{
    completion *c = context;
    if (o->name == NULL) {
        return;
    }
    const argument_kind kind = find_kind(o);
    const bool is_optional = (o->flags & OPTION_ARG_OPTIONAL) != 0;
    fprintf(c->to, "complete -c moe-tune -n '__fish_seen_subcommand_from %s' -l %s", c->command->name, o->name);
    if (kind == ARGUMENT_WORDS) {
        fprintf(c->to, " %s-f -a '", is_optional ? "" : "-r ");
        put_words(c->to, o);
        fputc('\'', c->to);
    } else if (kind == ARGUMENT_FOLDER) {
        fputs(" -x -a '(__fish_complete_directories)'", c->to);
    } else if (kind != ARGUMENT_NONE) {
        fprintf(c->to, " -r%s", kind == ARGUMENT_FILE ? " -F" : " -f");
    }
    fputs(" -d '", c->to);
    put_short_doc(c->to, o->doc);
    fputs("'\n", c->to);
}

static void put_fish(FILE *to, const moet_commands *commands)
{
    fputs("# fish completion of moe-tune; made by `moe-tune help --completion fish`\n", to);
    for (int32_t i = 0; i < commands->count; i++) {
        const moet_command *command = commands->items[i];
        completion c = {to, command, ARGUMENT_NONE};
        fprintf(to, "complete -c moe-tune -f -n __fish_use_subcommand -a %s -d '", command->name);
        put_short_doc(to, command->summary);
        fputs("'\n", to);
        visit_all_options(command, put_fish_option, &c);
    }
}

static const struct {
    const char *name;
    void (*put)(FILE *to, const moet_commands *commands);
} shells[] = {{"bash", put_bash}, {"zsh", put_zsh}, {"fish", put_fish}};

moet_status moet_document_completion(FILE *to, const moet_commands *commands, const char *shell)
{
    for (size_t i = 0; i < sizeof shells / sizeof shells[0]; i++) {
        if (strcmp(shells[i].name, shell) == 0) {
            shells[i].put(to, commands);
            return MOET_OK;
        }
    }
    return moet_fail(MOET_INVALID, "help --completion: no shell '%.32s': bash, zsh or fish", shell);
}
