/* plot.c: what pictures there are, and gnuplot's run. See plot.h. */
#include "plot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../src/file.h"
#include "child.h"
#include "utf8.h"

#define MAX_PICTURE_BYTES (64 << 20)

extern const char moet_source_plot[]; /* plot.gp */

static const struct {
    const char *name, *text;
    moet_plot_source source;
} kinds[] = {
#define MOET_X(id, name, source, text) {name, text, MOET_PLOT_FROM_##source},
    MOET_PLOT_TABLE(MOET_X)
#undef MOET_X
};

const char *moet_plot_name(moet_plot_kind kind) { return kinds[kind].name; }
const char *moet_plot_text(moet_plot_kind kind) { return kinds[kind].text; }
moet_plot_source moet_plot_source_of(moet_plot_kind kind) { return kinds[kind].source; }

moet_status moet_plot_parse(const char *name, moet_plot_kind *kind)
{
    char names[200] = "";
    for (int32_t i = 0; i < MOET_PLOT_KIND_COUNT; i++) {
        if (strcmp(name, kinds[i].name) == 0) {
            *kind = (moet_plot_kind)i;
            return MOET_OK;
        }
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i > 0 ? ", " : "", kinds[i].name);
    }
    return moet_fail(MOET_INVALID, "no picture '%.40s': there are %s", name, names);
}

void moet_plot_put_text(FILE *to, const char *text)
{
    size_t length;
    while (*text != '\0') {
        const char *at = moet_utf8_next(&text, &length);
        if (strchr("\"'`\\", *at) == NULL && (unsigned char)*at >= ' ') fwrite(at, 1, length, to);
    }
}

static moet_status write_data(moet_plot_kind kind, const moet_plot_sources *sources, FILE *data, FILE *settings,
                              double *best)
{
    switch (kinds[kind].source) {
    case MOET_PLOT_FROM_BENCH:
        return moet_plot_write_peers(sources, data, settings);
    case MOET_PLOT_FROM_REGRET:
        return moet_plot_write_regret(sources, data, settings);
    default:
        if (kind == MOET_PLOT_WATERFALL) return moet_plot_write_waterfall(sources, data, settings, best);
        return moet_plot_write_db(kind, sources, data, settings, best);
    }
}

/* Closes a file; an error of writing it is found here. */
static moet_status finish(FILE *file, const char *path, moet_status status)
{
    const bool failed = ferror(file) != 0;
    if ((fclose(file) != 0 || failed) && status == MOET_OK) {
        return moet_fail(MOET_IO, "%s: %s", path, strerror(errno));
    }
    return status;
}

static moet_status write_files(moet_plot_kind kind, const moet_plot_sources *sources, const char *folder, double *best)
{
    char paths[2][MOET_CHILD_FOLDER_SIZE + 16];
    snprintf(paths[0], sizeof paths[0], "%s/data", folder);
    snprintf(paths[1], sizeof paths[1], "%s/settings", folder);
    FILE *data = fopen(paths[0], "w"), *settings = data != NULL ? fopen(paths[1], "w") : NULL;
    if (settings == NULL) {
        moet_status status = moet_fail(MOET_IO, "%s: %s", folder, strerror(errno));
        return data != NULL ? finish(data, paths[0], status) : status;
    }
    moet_status status = write_data(kind, sources, data, settings, best);
    status = finish(data, paths[0], status);
    return finish(settings, paths[1], status);
}

/* gnuplot's own message: its last line that has one. */
static moet_status fail_gnuplot(const char *log_path)
{
    char *log = NULL;
    size_t size = 0;
    MOET_TRY(moet_file_read(log_path, 1 << 20, &log, &size));
    const char *line = strstr(log, "line ");
    moet_status status = moet_fail(MOET_IO, "gnuplot failed: %.200s", line != NULL ? line : "it says nothing");
    free(log);
    return status;
}

static moet_status run_gnuplot(const char *gnuplot, moet_plot_kind kind, const char *folder, const char *path)
{
    char out[MOET_CHILD_FOLDER_SIZE + 16], script[MOET_CHILD_FOLDER_SIZE + 16], log[MOET_CHILD_FOLDER_SIZE + 16];
    char told[3 * MOET_CHILD_FOLDER_SIZE], *bytes = NULL;
    const char *format = strcmp(path + strlen(path) - 4, ".png") == 0 ? "png" : "svg";
    size_t size = 0;
    int code = 0;
    if (strchr(folder, '\'') != NULL) { /* between quotes here and in the script */
        return moet_fail(MOET_INVALID, "TMPDIR: '%s' holds a quote, which gnuplot's script cannot; name another folder",
                         folder);
    }
    snprintf(out, sizeof out, "%s/out", folder);
    snprintf(log, sizeof log, "%s/log", folder);
    snprintf(script, sizeof script, "%s/plot.gp", folder);
    snprintf(told, sizeof told, "kind='%s'; format='%s'; folder='%s'", kinds[kind].name, format, folder);
    MOET_TRY(moet_file_replace(script, moet_source_plot, strlen(moet_source_plot)));
    const char *const argv[] = {gnuplot, "-e", told, script, NULL};
    MOET_TRY(moet_child_run(argv, log, log, &code));
    if (code != 0) {
        return fail_gnuplot(log);
    }
    MOET_TRY(moet_file_read(out, MAX_PICTURE_BYTES, &bytes, &size));
    moet_status status = moet_file_replace(path, bytes, size);
    free(bytes);
    return status;
}

moet_status moet_plot_draw(moet_plot_kind kind, const moet_plot_sources *sources, const char *path, double *best)
{
    char folder[MOET_CHILD_FOLDER_SIZE], *gnuplot = NULL;
    const size_t length = strlen(path);
    *best = 0;
    if (length < 5 || (strcmp(path + length - 4, ".svg") != 0 && strcmp(path + length - 4, ".png") != 0)) {
        return moet_fail(MOET_INVALID, "'%s': a picture is a file .svg or .png", path);
    }
    MOET_TRY(moet_child_find("gnuplot", NULL, "it draws the pictures: apt install gnuplot-nox", &gnuplot));
    moet_status status = moet_child_folder_make(folder);
    if (status == MOET_OK) {
        status = write_files(kind, sources, folder, best);
        if (status == MOET_OK) status = run_gnuplot(gnuplot, kind, folder, path);
        moet_child_folder_remove(folder);
    }
    free(gnuplot);
    return status;
}
