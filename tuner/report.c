/* report.c: see report.h. */
#include "report.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../src/file.h"
#include "child.h"
#include "command.h"
#include "html.h"
#include "peers.h"
#include "problem_options.h"
#include "report_lines.h"

#define MAX_PICTURE_BYTES (64 << 20)

extern const char moet_source_report_head[]; /* report_head.html */

/* Geometric mean and extremes of what is above 0. */
typedef struct series {
    int32_t count;
    double log_sum, least, most;
} series;

typedef struct report {
    const moet_report_options *options;
    FILE *to;
    const char *db;
    char key[MOET_DEVICE_KEY_SIZE];
    moet_device_info device;
    moet_ceilings ceilings;
    FILE *winners; /* rows of their table, and the same as a bench's lines */
    FILE *lines;
    int64_t rows, default_wins;
    series efficiency[MOET_OP_COUNT], gain; /* time of the default / time of the winner, kind any */
    int64_t ok, wrong, failed;
    int32_t runs;
    double seconds;
} report;

static void series_add(series *s, double value)
{
    if (!(value > 0) || !isfinite(value)) {
        return;
    }
    s->least = s->count == 0 || value < s->least ? value : s->least;
    s->most = value > s->most ? value : s->most;
    s->log_sum += log(value);
    s->count++;
}

static double geomean(const series *s) { return s->count > 0 ? exp(s->log_sum / s->count) : (double)NAN; }

/* ---- cells ---- */

static void cell_text(FILE *to, const char *text)
{
    fputs("<td class=\"text\">", to);
    moet_html_text(to, text);
    fputs("</td>", to);
}

/* A number that sorts as it is, shown with so many decimals; NaN: unknown. */
static void cell_number(FILE *to, double value, int decimals)
{
    if (isfinite(value)) {
        value = fabs(value) < 0.5 * pow(10, -decimals) ? 0 : value; /* no -0.0 */
        fprintf(to, "<td data-v=\"%.9g\">%.*f</td>", value, decimals, value);
    } else {
        fputs("<td data-v=\"\">-</td>", to);
    }
}

static void put_command(FILE *to, const char *command)
{
    fputs("<code>", to);
    moet_html_text(to, command);
    fputs("</code>", to);
}

/* Headings, those with '*' in front of texts. command: what prints these numbers; NULL: none but this page's. */
static void begin_table(FILE *to, const char *id, const char *caption, const char *command, const char *const *headings,
                        int32_t count)
{
    fprintf(to, "<div class=\"wide\"><table class=\"sort\" id=\"%s\"><caption>", id);
    moet_html_text(to, caption);
    if (command != NULL) {
        fputc(' ', to);
        put_command(to, command);
    }
    fputs("</caption><thead><tr>", to);
    for (int32_t i = 0; i < count; i++) {
        const bool is_text = headings[i][0] == '*';
        fprintf(to, "<th scope=\"col\"%s><button>%s</button></th>", is_text ? " class=\"text\"" : "",
                headings[i] + is_text);
    }
    fputs("</tr></thead><tbody>\n", to);
}

static void end_table(FILE *to) { fputs("</tbody></table></div>\n", to); }

/* A command of these words, as the shell reads them; the first one as it is. */
static moet_status put_words(FILE *to, const char *const *words, int32_t count)
{
    char *line = moet_command_line(count, (char *const *)words);
    if (line == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for a command");
    }
    moet_html_text(to, line);
    free(line);
    return MOET_OK;
}

/* A command on this report's database and, of several devices, its own; with up to two words more. malloc'd, NULL
 * without memory. */
static char *format_db_command(const report *r, const char *command, const char *option, const char *value)
{
    const char *words[7] = {command, "--db", r->db};
    int32_t count = 3;
    if (r->options->sources.device != NULL) {
        words[count++] = "--device";
        words[count++] = r->options->sources.device;
    }
    if (option != NULL) {
        words[count++] = option;
        words[count++] = value;
    }
    return moet_command_line(count, (char *const *)words);
}

/* ---- winners ---- */

static moet_status make_workload(const moet_store_winner_row *row, const moet_problem *problem, moet_workload *workload)
{
    const moet_store_trial_row *t = &row->trial;
    *workload = (moet_workload){.experts = t->experts,
                                .hidden = problem->hidden,
                                .inter = problem->inter,
                                .rows = t->rows,
                                .tokens = moet_store_problem_tokens(t->problem_key)};
    snprintf(workload->name, sizeof workload->name, "%s", t->workload_name);
    snprintf(workload->skew, sizeof workload->skew, "%s", t->skew);
    workload->counts = malloc((size_t)t->experts * sizeof *workload->counts);
    if (workload->counts == NULL) {
        return moet_fail(MOET_NO_MEMORY, "no memory for a workload of %d experts", t->experts);
    }
    memcpy(workload->counts, t->counts, (size_t)t->experts * sizeof *workload->counts);
    return MOET_OK;
}

/* What measures a winner again, alone, and what shows all that was tried there. */
static moet_status put_commands(report *r, const moet_store_winner_row *row, const moet_problem *problem)
{
    const moet_store_trial_row *t = &row->trial;
    moet_workload workload;
    char *line = NULL, bench[MOET_PROBLEM_OPTIONS_SIZE + 80], options[MOET_PROBLEM_OPTIONS_SIZE], name[256];
    MOET_TRY(make_workload(row, problem, &workload));
    moet_status status = moet_workload_format(&workload, &line);
    moet_workload_release(&workload);
    if (status != MOET_OK) {
        return status;
    }
    moet_problem_options_format(problem, options);
    snprintf(bench, sizeof bench, "moe-tune bench --device %s --workloads - %s%s", r->device.backend, options,
             t->device_counts ? " --device-counts" : "");
    snprintf(name, sizeof name, "%s/%lld/%s", t->workload_name, (long long)t->rows, t->skew);
    const char *const echo_words[] = {"echo", line}, *const bench_words[] = {bench, "--config", t->config};
    fputs("<td class=\"text\"><details><summary>again</summary><code>", r->winners);
    status = put_words(r->winners, echo_words, MOET_COUNT_OF(echo_words));
    fputs(" | ", r->winners);
    if (status == MOET_OK) status = put_words(r->winners, bench_words, MOET_COUNT_OF(bench_words));
    fputs("</code><code>", r->winners);
    char *show = format_db_command(r, "moe-tune show", "--why", name);
    if (status == MOET_OK && show == NULL) status = moet_fail(MOET_NO_MEMORY, "no memory for a command");
    moet_html_text(r->winners, show);
    fputs("</code></details></td></tr>\n", r->winners);
    free(show);
    free(line);
    return status;
}

static moet_status visit_winner(void *context, const moet_store_winner_row *row)
{
    report *r = context;
    const moet_store_trial_row *t = &row->trial;
    const double time_ns = (double)t->median_ns;
    char key[MOET_STORE_PROBLEM_SIZE];
    moet_problem problem;
    snprintf(key, sizeof key, "%.*s", (int)moet_store_problem_length(t->problem_key), t->problem_key);
    MOET_TRY(moet_problem_parse(key, &problem));
    const double gain =
        row->default_trial.config != NULL ? (double)row->default_trial.median_ns / time_ns : (double)NAN;
    const double next =
        row->runner_up.config != NULL ? 100 * ((double)row->runner_up.median_ns / time_ns - 1) : (double)NAN;
    if (row->kind == MOET_TABLE_ANY) {
        series_add(&r->efficiency[problem.op], t->efficiency);
        series_add(&r->gain, gain);
        r->default_wins += gain == 1;
        MOET_TRY(moet_report_put_line(r->lines, t, &problem));
        r->rows++;
    }
    FILE *to = r->winners;
    fputs("<tr>", to);
    cell_text(to, t->workload_name);
    cell_text(to, moet_op_text(problem.op));
    cell_number(to, (double)t->rows, 0);
    cell_text(to, t->skew);
    cell_number(to, t->max_over_mean, 2);
    cell_text(to, row->kind == MOET_TABLE_ANY ? "host" : "device");
    cell_number(to, time_ns * 1e-3, 3);
    cell_number(to, 100 * (double)t->noise_ns / time_ns, 2);
    cell_number(to, 100 * t->efficiency, 1);
    cell_number(to, gain, 2);
    cell_number(to, next, 1);
    fputs("<td class=\"config\"><code>", to);
    moet_html_list(to, t->config);
    fputs("</code></td>", to);
    fprintf(to, "<td class=\"text\"><a href=\"#run-%lld\">run %lld</a>, trial %lld, ", (long long)t->run_id,
            (long long)t->run_id, (long long)t->trial_id);
    moet_html_format(to, "%.19s", t->measured_at);
    fputs("</td>", to);
    return put_commands(r, row, &problem);
}

static void put_winners(report *r, const char *rows)
{
    static const char *const headings[] = {
        "*workload", "*op",           "rows",      "*skew",          "busiest / mean", "*counts",   "time, us",
        "+- %",      "efficiency, %", "x default", "next, % slower", "*configuration", "*measured", "*command"};
    fputs(
        "<h2>Winners</h2>\n<p class=\"faint\">Click a heading to sort. <em>Counts</em>: where the rows of each expert "
        "are known, on the host (any kernel may win) or on the device. <em>x default</em>: time of what runs without a "
        "table / time of the winner. A tie within max(1 %, both noises) goes to the default.</p>\n"
        "<input id=\"winners-filter\" type=\"search\" aria-label=\"filter winners\" placeholder=\"filter: words of a "
        "row\">\n",
        r->to);
    char *command = format_db_command(r, "moe-tune show", "--format", "csv");
    begin_table(r->to, "winners", "Medians of interleaved rounds.", command, headings, MOET_COUNT_OF(headings));
    free(command);
    fputs(rows, r->to);
    end_table(r->to);
}

/* ---- peers ---- */

/* What compares our bench with each file of peers, or, without any, with the peers in it. */
static moet_status put_compare_commands(report *r)
{
    const moet_plot_sources *o = &r->options->sources;
    moet_status status = MOET_OK;
    fputs("<p class=\"faint\">", r->to);
    for (int32_t i = 0; i < (o->peers_count > 0 ? o->peers_count : 1) && status == MOET_OK; i++) {
        const char *const words[] = {"moe-tune compare", o->bench, o->peers_count > 0 ? o->peers[i] : o->bench,
                                     "--peer", MOET_PEER_OURS};
        fputs("<code>", r->to);
        status = put_words(r->to, words, MOET_COUNT_OF(words));
        fputs("</code> ", r->to);
    }
    fputs("</p>\n", r->to);
    return status;
}

static moet_status put_peers(report *r, const moet_peers *peers)
{
    static const char *const headings[] = {"*peer", "points", "geomean", "least", "most", "moe-tune slower at"};
    static const char *const of_points[] = {"*workload", "*op",          "rows",
                                            "*skew",     "moe-tune, us", "best peer / moe-tune"};
    moet_status status = MOET_OK;
    fputs("<h2>Beside other programs</h2>\n", r->to);
    if (r->options->sources.bench == NULL) {
        fputs("<p>Ours are the winners' times of the sweep, at another time than the peers': give <code>--bench</code> "
              "for "
              "times of one session.</p>\n",
              r->to);
    } else {
        status = put_compare_commands(r);
    }
    begin_table(r->to, "peers",
                "Time of the peer / time of moe-tune. The best peer is the fastest other program at each point; "
                "moe-tune-default is none.",
                NULL, headings, MOET_COUNT_OF(headings));
    for (int32_t i = 0; i < peers->count; i++) {
        const moet_peer *p = &peers->items[i];
        fputs("<tr>", r->to);
        cell_text(r->to, p->name);
        cell_number(r->to, p->count, 0);
        cell_number(r->to, p->geomean, 3);
        cell_number(r->to, p->ratios[0].ratio, 3);
        cell_number(r->to, p->ratios[p->count - 1].ratio, 3);
        cell_number(r->to, p->slower, 0);
        fputs("</tr>\n", r->to);
    }
    end_table(r->to);
    const moet_peer *best = &peers->items[peers->count - 1];
    fputs("<h2>Point by point against the best peer</h2>\n", r->to);
    begin_table(r->to, "points", "Below 1 moe-tune is the slower one.", NULL, of_points, MOET_COUNT_OF(of_points));
    for (int32_t i = 0; i < best->count; i++) {
        const moet_bench_point *p = best->ratios[i].point;
        fputs("<tr>", r->to);
        cell_text(r->to, p->name);
        cell_text(r->to, p->op);
        cell_number(r->to, (double)p->rows, 0);
        cell_text(r->to, p->skew);
        cell_number(r->to, p->time_us, 2);
        cell_number(r->to, best->ratios[i].ratio, 3);
        fputs("</tr>\n", r->to);
    }
    end_table(r->to);
    return status;
}

/* ---- runs ---- */

static moet_status visit_run(void *context, const moet_store_run_row *row)
{
    report *r = context;
    r->runs++;
    r->ok += row->ok;
    r->wrong += row->wrong;
    r->failed += row->failed;
    r->seconds += row->seconds;
    return MOET_OK;
}

static moet_status put_run(void *context, const moet_store_run_row *row)
{
    FILE *to = ((const report *)context)->to;
    fprintf(to, "<tr id=\"run-%lld\"><td data-v=\"%lld\">%lld</td>", (long long)row->run_id, (long long)row->run_id,
            (long long)row->run_id);
    cell_text(to, row->started_at);
    cell_number(to, row->seconds / 60, 1);
    cell_number(to, (double)row->of, 0);
    cell_number(to, (double)row->wrong, 0);
    cell_number(to, (double)row->failed, 0);
    const bool is_small = row->ceilings.dense_flops_per_s < 1e13; /* a processor */
    cell_number(to, row->ceilings.dense_flops_per_s / 1e12, is_small ? 4 : 1);
    cell_number(to, row->ceilings.copy_bytes_per_s / 1e9, is_small ? 2 : 0);
    cell_number(to, row->ceilings.read_bytes_per_s / 1e9, is_small ? 2 : 0);
    cell_text(to, row->revision);
    cell_text(to, row->driver);
    fputs("<td class=\"config\">", to);
    moet_html_text(to, row->libraries);
    fputs("</td><td class=\"config\">", to);
    put_command(to, row->command);
    fputs("</td></tr>\n", to);
    return MOET_OK;
}

static moet_status put_runs(report *r, moet_store *store)
{
    static const char *const headings[] = {"run",     "*started",       "minutes",    "trials",     "wrong",
                                           "failed",  "dense, TFLOP/s", "copy, GB/s", "read, GB/s", "*revision",
                                           "*driver", "*libraries",     "*command"};
    fputs(
        "<h2>Where the numbers come from</h2>\n<p class=\"faint\">A run is one process that measured. Dense, copy and "
        "read "
        "are what it found this device can do, in the same rounds as its first trials; a floor is the longer of FLOPs "
        "over dense and bytes over the better of copy and read, each operand once; efficiency is floor / time. A trial "
        "is verified on poisoned outputs before it is timed. The command measures again.</p>\n",
        r->to);
    begin_table(r->to, "runs", "Runs that have trials.", NULL, headings, MOET_COUNT_OF(headings));
    moet_status status = moet_store_each_run(store, r->key, put_run, r);
    end_table(r->to);
    return status;
}

/* ---- summary ---- */

static void put_tile(FILE *to, const char *value, const char *meaning, const char *command)
{
    fputs("<div class=\"tile\"><b>", to);
    moet_html_text(to, value);
    fputs("</b>", to);
    moet_html_text(to, meaning);
    fputs("<br>", to);
    put_command(to, command);
    fputs("</div>\n", to);
}

static void put_efficiency(const report *r, moet_op op, const series *s, const char *show)
{
    const char *name = moet_op_text(op);
    char value[64], meaning[400];
    snprintf(value, sizeof value, "%.1f %%", 100 * geomean(s));
    snprintf(meaning, sizeof meaning, "of what the device can do, %s, %d points (least %.1f %%)", name, s->count,
             100 * s->least);
    if (moet_plot_is_doubtful(s->most)) {
        snprintf(value, sizeof value, "unknown");
        snprintf(meaning, sizeof meaning, "efficiency of %s, %d points, which seems up to %.0f %%: " MOET_PLOT_DOUBT,
                 name, s->count, 100 * s->most);
        moet_command_note("%s: efficiency of %s up to %.0f %%: " MOET_PLOT_DOUBT, r->db, name, 100 * s->most);
    }
    put_tile(r->to, value, meaning, show);
}

static void put_summary(report *r, const moet_peers *peers)
{
    char value[64], meaning[400], *show = format_db_command(r, "moe-tune show", NULL, NULL);
    FILE *to = r->to;
    fputs("<h1>moe-tune on ", to);
    moet_html_text(to, r->device.name);
    fputs("</h1>\n<p class=\"faint\"><code>", to);
    moet_html_text(to, r->key);
    fputs("</code></p>\n<p>", to);
    fprintf(
        to,
        "<strong>%lld points</strong> (a shape, its rows and how they are spread, up, down or the whole expert path) "
        "were tuned in %.1f minutes of %d run%s: of %lld trials %lld gave a wrong result and %lld failed; none of "
        "these "
        "can win. ",
        (long long)r->rows, r->seconds / 60, r->runs, r->runs == 1 ? "" : "s",
        (long long)(r->ok + r->wrong + r->failed), (long long)r->wrong, (long long)r->failed);
    if (r->gain.count > 0) {
        fprintf(to,
                "What was found is <strong>%.2f times</strong> as fast as what runs without tuning (geometric mean; at "
                "most "
                "%.2f), and at %lld point%s that is as good. ",
                geomean(&r->gain), r->gain.most, (long long)r->default_wins, r->default_wins == 1 ? "" : "s");
    }
    if (peers != NULL) {
        const moet_peer *best = &peers->items[peers->count - 1];
        fprintf(to,
                "Against the fastest other program at each point it is <strong>%.2f times</strong> as fast (least "
                "%.2f), slower "
                "at %d of %d. ",
                best->geomean, best->ratios[0].ratio, best->slower, best->count);
    }
    fputs("</p>\n<div class=\"tiles\">\n", to);
    for (int32_t op = 0; op < MOET_OP_COUNT; op++) {
        const series *s = &r->efficiency[op];
        if (s->count > 0) {
            put_efficiency(r, (moet_op)op, s, show);
        }
    }
    if (r->gain.count > 0) {
        snprintf(value, sizeof value, "%.2f x", geomean(&r->gain));
        snprintf(meaning, sizeof meaning, "as fast as without a table, %d points (most %.2f x)", r->gain.count,
                 r->gain.most);
        put_tile(to, value, meaning, show);
    }
    if (peers != NULL) {
        const moet_peer *best = &peers->items[peers->count - 1];
        snprintf(value, sizeof value, "%.2f x", best->geomean);
        snprintf(meaning, sizeof meaning, "as fast as the best other program at each of %d points (least %.2f x)",
                 best->count, best->ratios[0].ratio);
        put_tile(to, value, meaning, "table \"Beside other programs\"");
    }
    fputs("</div>\n<p class=\"faint\">This page is one file. It was made by ", to);
    put_command(to, r->options->command);
    fputs("</p>\n", to);
    free(show);
}

/* ---- pictures ---- */

/* What draws the picture alone; of the winners' times beside peers' only this page's command does. */
static moet_status put_plot_command(report *r, moet_plot_kind kind)
{
    const moet_plot_sources *o = &r->options->sources;
    char draw[64];
    const char *words[2 * MOET_PLOT_MAX_FILES + 4] = {draw};
    int32_t count = 1;
    snprintf(draw, sizeof draw, "moe-tune plot %s", moet_plot_name(kind));
    if (moet_plot_source_of(kind) == MOET_PLOT_FROM_DB) {
        words[count++] = "--db";
        words[count++] = r->db;
        if (o->device != NULL) {
            words[count++] = "--device";
            words[count++] = o->device;
        }
    } else if (moet_plot_source_of(kind) == MOET_PLOT_FROM_REGRET) {
        for (int32_t i = 0; i < o->regret_count; i++) {
            words[count++] = "--regret";
            words[count++] = o->regrets[i];
        }
    } else if (o->bench != NULL) {
        words[count++] = "--bench";
        words[count++] = o->bench;
        for (int32_t i = 0; i < o->peers_count; i++) {
            words[count++] = "--peers";
            words[count++] = o->peers[i];
        }
    } else {
        return MOET_OK;
    }
    fputs("<code>", r->to);
    moet_status status = put_words(r->to, words, count);
    fputs("</code>", r->to);
    return status;
}

static moet_status put_picture(report *r, moet_plot_kind kind, const moet_plot_sources *sources, const char *folder)
{
    char path[MOET_CHILD_FOLDER_SIZE + 16], *svg = NULL;
    size_t size = 0;
    double best;
    snprintf(path, sizeof path, "%s/picture.svg", folder);
    MOET_TRY(moet_plot_draw(kind, sources, path, &best));
    moet_status status = moet_file_read(path, MAX_PICTURE_BYTES, &svg, &size);
    if (status != MOET_OK) {
        return status;
    }
    fputs("<figure>", r->to);
    moet_html_svg(r->to, svg, moet_plot_name(kind));
    fputs("<figcaption>", r->to);
    moet_html_format(r->to, "%s. ", moet_plot_text(kind));
    status = put_plot_command(r, kind);
    fputs("</figcaption></figure>\n", r->to);
    free(svg);
    return status;
}

static moet_status put_pictures(report *r, const moet_plot_sources *sources, bool has_peers, const char *folder)
{
    fputs("<h2>Pictures</h2>\n", r->to);
    for (int32_t kind = 0; kind < MOET_PLOT_KIND_COUNT; kind++) {
        const moet_plot_source source = moet_plot_source_of((moet_plot_kind)kind);
        const bool wanted = source == MOET_PLOT_FROM_BENCH    ? has_peers
                            : source == MOET_PLOT_FROM_REGRET ? sources->regret_count > 0
                                                              : kind != MOET_PLOT_SWEEP;
        moet_status status = wanted ? put_picture(r, (moet_plot_kind)kind, sources, folder) : MOET_OK;
        if (status == MOET_NOT_FOUND) { /* gnuplot is */
            moet_command_note("the report has no pictures: %s", moet_last_error());
            fputs("<p>", r->to);
            moet_html_format(r->to, "No pictures: %s.", moet_last_error());
            fputs("</p>\n", r->to);
            return MOET_OK;
        }
        if (status == MOET_UNSUPPORTED) { /* of this database this one cannot be drawn */
            fputs("<p>", r->to);
            moet_html_format(r->to, "No picture of %s: %s.", moet_plot_text((moet_plot_kind)kind), moet_last_error());
            fputs("</p>\n", r->to);
            continue;
        }
        MOET_TRY(status);
    }
    return MOET_OK;
}

/* ---- the page ---- */

static moet_status put_page(report *r, moet_store *store, const char *winners, const char *lines_path,
                            const char *folder)
{
    moet_plot_sources sources = r->options->sources;
    moet_peers peers = {.count = 0};
    const bool has_peers = sources.peers_count > 0 || sources.bench != NULL;
    if (sources.bench == NULL) {
        sources.bench = lines_path;
    }
    sources.device = r->key;
    if (has_peers) {
        MOET_TRY(moet_peers_read(sources.bench, sources.peers, sources.peers_count, &peers));
        moet_status status = moet_peers_check_device(sources.bench, peers.ours.device, r->device.name);
        if (status != MOET_OK) {
            moet_peers_release(&peers);
            return status;
        }
    }
    fputs(moet_source_report_head, r->to);
    fputs("<title>moe-tune: ", r->to);
    moet_html_text(r->to, r->device.name);
    fputs("</title>\n</head>\n<body>\n", r->to);
    put_summary(r, has_peers ? &peers : NULL);
    moet_status status = put_pictures(r, &sources, has_peers, folder);
    if (status == MOET_OK && has_peers) status = put_peers(r, &peers);
    if (status == MOET_OK) put_winners(r, winners);
    if (status == MOET_OK) status = put_runs(r, store);
    fputs("</body>\n</html>\n", r->to);
    moet_peers_release(&peers);
    return status;
}

/* Everything into memory: the file is there as a whole, or as it was. */
static moet_status make_page(report *r, moet_store *store, const char *folder, char **page, size_t *size)
{
    char lines_path[MOET_CHILD_FOLDER_SIZE + 16], *winners = NULL;
    size_t winners_size = 0;
    snprintf(lines_path, sizeof lines_path, "%s/winners.jsonl", folder);
    r->winners = open_memstream(&winners, &winners_size);
    r->lines = r->winners != NULL ? fopen(lines_path, "w") : NULL;
    moet_status status = r->lines != NULL ? MOET_OK : moet_fail(MOET_IO, "%s: %s", lines_path, strerror(errno));
    if (status == MOET_OK) {
        const moet_store_filter filter = {.device_key = r->key};
        status = moet_report_put_device(r->lines, r->device.name);
        if (status == MOET_OK) status = moet_store_each_winner(store, &filter, visit_winner, r);
        if (status == MOET_OK) status = moet_store_each_run(store, r->key, visit_run, r);
    }
    if (r->lines != NULL && fclose(r->lines) != 0 && status == MOET_OK)
        status = moet_fail(MOET_IO, "%s: %s", lines_path, strerror(errno));
    if (r->winners != NULL && fclose(r->winners) != 0 && status == MOET_OK)
        status = moet_fail(MOET_NO_MEMORY, "no memory for a report");
    if (status == MOET_OK && r->rows == 0) {
        status = moet_fail(MOET_NOT_FOUND, "%s: no winner to report: sweep first", r->db);
    }
    if (status == MOET_OK) {
        r->to = open_memstream(page, size);
        status = r->to != NULL ? put_page(r, store, winners, lines_path, folder)
                               : moet_fail(MOET_NO_MEMORY, "no memory for a report");
        if (r->to != NULL && fclose(r->to) != 0 && status == MOET_OK) {
            status = moet_fail(MOET_NO_MEMORY, "no memory for a report");
        }
    }
    free(winners);
    return status;
}

moet_status moet_report_write(const moet_report_options *options, const char *path)
{
    report r = {.options = options, .db = options->sources.dbs[0]};
    char folder[MOET_CHILD_FOLDER_SIZE], *page = NULL;
    moet_store *store = NULL;
    size_t size = 0;
    MOET_TRY(moet_plot_open(r.db, options->sources.device, &store, r.key));
    moet_status status = moet_store_begin_reading(store); /* numbers of one moment; closing ends it */
    if (status == MOET_OK) status = moet_store_device_info(store, r.key, &r.device, &r.ceilings);
    if (status == MOET_OK) status = moet_child_folder_make(folder);
    if (status == MOET_OK) {
        status = make_page(&r, store, folder, &page, &size);
        if (status == MOET_OK) status = moet_file_replace(path, page, size);
        moet_child_folder_remove(folder);
    }
    free(page);
    moet_store_close(store);
    return status;
}
