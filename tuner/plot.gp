# Pictures of moe-tune plot, which sets kind, format (svg, png) and folder. Okabe-Ito colours and a shape for each series,
# so that pictures hold in print, in grey and for the colour-blind; dark text on a white ground, so that they hold in dark
# mode too. Data and settings are written by plot_*.c.
load folder."/settings"
data = folder."/data"
set output folder."/out"
colour(i) = word("#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #000000 #8C510A", (i - 1) % 8 + 1)
shape(i) = int(word("7 5 9 11 13 4 6 8", (i - 1 + (i - 1) / 8) % 8 + 1)) # a ninth has the first one's colour, not its shape
ops = "up down ffn"
# Of a database: rows_<op>; families, details and, of an op, families_<op>, details_<op>: words. A series has one colour
# and shape in all panels, and stands in the keys of those where it has points.
has(o) = exists("rows_".o) ? value("rows_".o) : 0
at(list, name) = sum [k = 1:words(list)] (word(list, k) eq name ? k : 0)
panels = (has("up") > 0) + (has("down") > 0) + (has("ffn") > 0)
set datafile missing "NaN"
set border 3 lc rgb "#404040"
set tics nomirror tc rgb "#202020"
set grid lc rgb "#c8c8c8" lw 0.8 lt 1
set key Left reverse samplen 1.2 tc rgb "#202020" noenhanced
set title noenhanced
small = format eq "svg" ? 0.7 : 1 # points of one size are larger in SVG
paned = kind eq "efficiency" || kind eq "winners"
wide = paned ? 420 * (panels > 1 ? panels : 1.6) + 120 : 860
# Panels are of one size, below the picture's title and the longest of their keys. Winners are families with their first
# parameter, where these are few enough to be told apart.
longest(list) = (n = 0, sum [k = 1:3] (has(word(ops, k)) > 0 && words(value(list.word(ops, k))) > n ? (n = words(value(list.word(ops, k))), 0) : 0), n)
by = 5
if (kind eq "winners") { by = longest("details_") > 8 || words(details) > 16 ? 5 : 6 }
columns = by == 6 ? 1 : 2
lines = paned ? (longest(by == 6 ? "details_" : "families_") + columns - 1) / columns : 0
above = 85 + (format eq "svg" ? 19.5 : 13.5) * lines
high = paned ? 350 + above + 60 : 470
left = 65.0 / wide; right = 1 - 20.0 / wide; gap = 85.0 / wide; bottom = 60.0 / high; top = 1 - 1.0 * above / high
if (kind eq "waterfall") { wide = 1060; high = 150 + 62 * points }
if (format eq "svg") { set terminal svg size wide,high font "Helvetica,13" background rgb "#ffffff" } \
else { set terminal pngcairo size 1.5*wide,1.5*high font "Helvetica,15" background rgb "#ffffff" }

if (kind eq "roofline") {
    # The roof is drawn from the least intensity on; the op by colour and shape. A processor does GFLOP/s.
    unit = dense < 1 ? 1000.0 : 1.0
    set title doubt eq "" ? sprintf("Every winner under the roofline of %s", device) : sprintf("Winners and measured ceilings of %s\n%s", device, doubt)
    set logscale x 2
    set logscale y
    set xlabel "FLOP / byte, each operand moved once"
    set ylabel unit > 1 ? "GFLOP/s" : "TFLOP/s"
    set format y "%g"
    set key tmargin center horizontal
    stats data using 7:($8 * unit) nooutput
    roof_top = dense * unit
    low = 0.6 * STATS_min_x; high_x = 1.8 * (STATS_max_x > dense / hbm ? STATS_max_x : dense / hbm)
    set xrange [low:high_x]
    top = 1.6 * (STATS_max_y > roof_top ? STATS_max_y : roof_top) # ceilings are measured: a winner may be above
    set yrange [0.5 * STATS_min_y:top]
    # On a linear axis, which it is where else no number would stand at it, the numbers between decades are all near 0.
    if (top < 10 * STATS_min_y) { unset logscale y; set yrange [0:top] } \
    else { set for [d = -6:9] ytics add (sprintf("%g", 2 * 10.0 ** d) 2 * 10.0 ** d, sprintf("%g", 5 * 10.0 ** d) 5 * 10.0 ** d) }
    set samples 400
    roof(x) = x * hbm < dense ? x * hbm * unit : roof_top
    rate(x, of) = x < 1 ? sprintf("%.3g G%s", 1000 * x, of) : sprintf("%.3g T%s", x, of)
    plot roof(x) with lines lw 2 lc rgb "#404040" \
        title sprintf("measured ceilings: %s, %s", rate(dense, "FLOP/s"), rate(hbm, "B/s")), \
        for [i = 1:3] data using (strcol(1) eq word(ops, i) ? $7 : NaN):($8 * unit) \
        with points pt shape(i) ps 0.8 * small lc rgb colour(i) title word(ops, i)." (".has(word(ops, i)).")"
}

if (kind eq "efficiency") {
    claim = doubt eq "" ? "Efficiency (floor time / time): the best of each family on each workload, and its mean" : doubt
    set multiplot layout 1,panels title claim noenhanced \
        margins screen left, right, bottom, top spacing screen gap
    set logscale x 2
    set offsets graph 0.04, graph 0.04, 0, 0
    set xlabel "rows an expert (mean)"
    set ylabel "efficiency, %"
    stats data using 4 nooutput
    set yrange [0:(STATS_max > 105 ? 1.06 * STATS_max : 112)]
    beside(own, i) = 2 ** (0.14 * (i - 0.5 * (words(own) + 1)))
    set key at graph 0.5, graph 1.11 center bottom horizontal maxcols columns
    do for [o in ops] {
        if (has(o) > 0) {
            set title o
            own = value("families_".o)
            plot for [i = 1:words(own)] data using (strcol(1) eq o && strcol(5) eq word(own, i) ? $2 * beside(own, i) : NaN):4 \
                with points pt shape(at(families, word(own, i))) ps 0.45 * small lc rgb colour(at(families, word(own, i))) notitle, \
                for [name in own] data using (strcol(1) eq o && strcol(5) eq name ? 2 ** (floor(2 * log($2) / log(2) + 0.5) / 2.0) : NaN):4 \
                smooth unique with linespoints lw 2 pt shape(at(families, name)) ps 1 * small lc rgb colour(at(families, name)) title name
        }
    }
    unset multiplot
}

if (kind eq "winners") {
    # Equal points stand side by side.
    names = by == 5 ? families : details
    set jitter overlap first 0.02 spread 0.7
    set multiplot layout 1,panels title "What wins, over rows an expert and skew" noenhanced \
        margins screen left, right, bottom, top spacing screen gap
    set logscale x 2
    set logscale y 2
    set xlabel "rows an expert (mean)"
    set ylabel "busiest expert / mean"
    set key at graph 0.5, graph 1.11 center bottom horizontal maxcols columns
    stats data using 3 nooutput
    set yrange [0.8:1.25 * (STATS_max > 1.6 ? STATS_max : 1.6)]
    set offsets graph 0.06, graph 0.06, 0, 0
    do for [o in ops] {
        if (has(o) > 0) {
            set title o
            own = value((by == 5 ? "families_" : "details_").o)
            plot for [i = 1:words(own)] data using (strcol(1) eq o && strcol(by) eq word(own, i) ? $2 * 2 ** (0.09 * (i - 0.5 * (words(own) + 1))) : NaN):3 \
                with points pt shape(at(names, word(own, i))) ps 0.9 * small lc rgb colour(at(names, word(own, i))) title word(own, i)
        }
    }
    unset multiplot
}

if (kind eq "peers") {
    # Equality is a line; the last curve is the best of all at each point.
    set title sprintf("Time of others / time of moe-tune, %d points, sorted%s", points, device eq "" ? "" : "; ".device)
    set xlabel "share of the points, %"
    set ylabel "time of it / time of moe-tune"
    set key top left
    set xrange [0:100]
    set logscale y
    stats data using 2 nooutput
    set yrange [0.95 * (STATS_min < 0.95 ? STATS_min : 0.95):1.05 * STATS_max]
    set ytics (0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.7, 2, 2.5, 3, 4, 6, 8)
    set label 1 "least of the best:\n".worst at graph 0.46, graph 0.97 left tc rgb "#202020" font ",12" noenhanced
    set arrow 1 from 0,1 to 100,1 nohead lc rgb "#404040" lw 1.5 dt 2
    n = words(peers)
    width(i) = i == n ? 3.5 : 2
    dashes(i) = i == n ? 1 : (i - 1) % 5 + 1
    line_colour(i) = i == n ? "#000000" : colour(i)
    plot for [i = 1:n] data index (i - 1) using 1:2 with lines lw width(i) dt dashes(i) lc rgb line_colour(i) title word(peers, i)
}

if (kind eq "regret") {
    # One table: its points by how the lookup hit. Several: a line each, with its numbers in the key.
    if (files == 1) { set title sprintf("Regret on %d workloads that were not tuned: mean %.1f %%, 95th percentile %.1f %%, most %.1f %%", points, mean, p95, most) } \
    else { set title "Regret on workloads that were not tuned" }
    set xlabel "share of the workloads, %"
    set ylabel "time over the best known, %"
    set key top right
    set xrange [0:100]
    # No table may cost twenty times as much: its line leaves the picture, in which the tables' would be one at 0.
    room = 4 * (most > 1 ? most : 1)
    set yrange [(least < 0 ? 1.1 * least : 0) - 0.02 * most:(default_most > room ? room : 1.1 * (default_most > most ? default_most : most))]
    without = sprintf("without a table, sorted by itself: most %.1f %%", default_most)
    hits = "nearest default"
    if (files == 1) {
        set style textbox opaque noborder
        set label 1 "worst:\n".worst at graph 0.98, graph 0.5 right tc rgb "#202020" font ",12" noenhanced front boxed
        plot data index 1 using 1:2 with lines lw 2 dt 2 lc rgb "#606060" title without, \
            for [i = 1:2] data index 0 using (strcol(3) eq word(hits, i) ? $1 : NaN):2 \
            with points pt shape(i) ps 0.8 * small lc rgb colour(i) title "the table's, hit ".word(hits, i)
    } else {
        plot data index files using 1:2 with lines lw 2 dt 2 lc rgb "#606060" title without, \
            for [i = 1:files] data index (i - 1) using 1:2 with linespoints lw 1.5 pt shape(i) ps 0.7 * small \
            lc rgb colour(i) title value("title".i)
    }
}

if (kind eq "sweep") {
    set title sprintf("What a sweep's time buys: %d workloads", common)
    set xlabel "time of the sweep, seconds a workload"
    set xtics (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
    set ylabel "time of the best known / time of what it found, %"
    set logscale x
    set key bottom right
    set offsets graph 0.15, graph 0.25, graph 0.1, graph 0.1
    # Sweeps are no steps of one: each has its own bar, its name above or below in turn.
    plot data using 1:3:(0):($2 - $3) with vectors nohead lw 1.2 dt 2 lc rgb "#808080" notitle, \
        data using 1:2 with points pt 7 ps 1.2 * small lc rgb colour(1) title "geometric mean", \
        data using 1:3 with points pt 5 ps 1 * small lc rgb colour(2) title "worst workload", \
        data every 2 using 1:2:4 with labels center offset 0,1.2 tc rgb "#202020" noenhanced notitle, \
        data every 2::1 using 1:3:4 with labels center offset 0,-1.2 tc rgb "#202020" noenhanced notitle
}

if (kind eq "waterfall") {
    # A bar a point, the least efficient on top: its parts in the order of the key, adjacent ones unlike in grey too, each
    # with its number where it fits. Above the bar stands what it is of.
    part_colour(i) = word("#0072B2 #E69F00 #009E73 #F0E442 #CC79A7 #D9D9D9", i)
    text_colour(i) = i == 1 ? 0xffffff : 0x202020
    set title sprintf("Where the time of the %d least efficient winners goes; %s", points, device)
    set xlabel "share of the measured time, %"
    stats data index 1 using 2 nooutput
    low = STATS_min < 0 ? STATS_min - 2 : 0
    stats data index 1 using 3 nooutput
    high_x = STATS_max > 100.01 ? STATS_max + 2 : 100
    set xrange [low:high_x]
    number(from, to) = sprintf("%s%.0f %%", from < 0 ? "-" : "", to - from)
    fits(from, to, letters) = to - from > (high_x - low) * (0.012 + 0.007 * letters)
    said(from, to, i) = fits(from, to, 5 + strlen(word(parts, i))) ? word(parts, i)." ".number(from, to) : \
        fits(from, to, 2) ? number(from, to) : ""
    set yrange [points + 0.6:0.4]
    unset ytics
    set border 1
    unset grid
    set key tmargin center horizontal
    set arrow 1 from 100, graph 0 to 100, graph 1 nohead back lc rgb "#808080" lw 1.5 dt 2
    set arrow 2 from 0, graph 0 to 0, graph 1 nohead back lc rgb "#a0a0a0" lw 1
    set style fill solid 1 border rgb "#202020"
    plot for [i = 1:words(parts)] data index 1 using ($4 == i ? 0.5 * ($2 + $3) : NaN):($1 + 0.22):2:3:($1 + 0.05):($1 + 0.41) \
        with boxxyerror lc rgb part_colour(i) notitle, \
        for [i = 1:words(parts)] NaN with boxes lc rgb part_colour(i) title word(parts, i), \
        data index 1 using (0.5 * ($2 + $3)):($1 + 0.23):(said($2, $3, int($4))):(text_colour(int($4))) \
        with labels center tc rgb variable font ",11" notitle, \
        data index 0 using (low):($1 - 0.31):(strcol(4)) with labels left offset 0.3,0 tc rgb "#202020" noenhanced notitle, \
        data index 0 using (low):($1 - 0.09):(strcol(5)) with labels left offset 0.3,0 tc rgb "#505050" font ",11" noenhanced notitle, \
        data index 0 using (high_x):($1 - 0.31):(sprintf("%.1f us, efficiency %.0f %%", $2, $3)) with labels right offset -0.5,0 tc rgb "#202020" notitle
}
