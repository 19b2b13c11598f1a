# Drawn by plot_results.sh, which sets kind (svg, png), data and out. Okabe-Ito colours, a shape for each family, so that
# the pictures hold in print and for the colour-blind; a white ground, so that they hold in dark mode.
families = system("sort ".data."/families.txt")
colour(i) = word("#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #000000", (i - 1) % 7 + 1)
shape(i) = int(word("7 5 9 11 13 4 6", (i - 1) % 7 + 1))
beside(i) = 2 ** (0.16 * (i - 0.5 * (words(families) + 1))) # families stand beside each other, not on each other
start(name) = sprintf("set output '%s/%s.%s'", out, name, kind)
set datafile missing "NaN"
set border 3 lc rgb "#404040"
set tics nomirror tc rgb "#202020"
set grid lc rgb "#d8d8d8" lw 0.6
set key outside right top Left reverse samplen 1.2 tc rgb "#202020"

if (kind eq "svg") { set terminal svg size 960,420 font "Helvetica,13" background rgb "#ffffff" } \
else { set terminal pngcairo size 1440,630 font "Helvetica,14" background rgb "#ffffff" }

# 1. efficiency against rows an expert, the best config of each family
eval start("efficiency")
set multiplot layout 1,2 title "Efficiency of each family's best configuration on each workload (floor time / time)"
set logscale x 2
set offsets graph 0.04, graph 0.04, 0, 0
set xlabel "rows an expert (mean)"
set ylabel "efficiency, %"
set yrange [0:112]
do for [o in "up down"] {
    set title o." GEMM"
    if (o eq "up") { unset key } else { set key inside right bottom }
    plot for [i = 1:words(families)] data."/best_".word(families, i).".dat" \
        using (strcol(1) eq o ? $4 * beside(i) : NaN):6 with points pt shape(i) ps 0.8 lc rgb colour(i) title word(families, i) noenhanced
}
unset multiplot

# 2. which family wins where; every family is in the key, so that one that never wins is seen to
eval start("winners")
set multiplot layout 1,2 title "Winning family over rows an expert and skew"
set logscale y 2
set autoscale y
set offsets graph 0.04, graph 0.04, graph 0.08, graph 0.04
set ylabel "busiest expert / mean"
do for [o in "up down"] {
    set title o." GEMM"
    if (o eq "up") { unset key } else { set key inside right top }
    plot for [i = 1:words(families)] data."/winners.dat" \
        using (strcol(1) eq o && strcol(2) eq word(families, i) ? $3 * beside(i) : NaN):4 \
        with points pt shape(i) ps 1.1 lc rgb colour(i) title word(families, i) noenhanced
}
unset multiplot

# 3. winner and efficiency over experts and hidden size
eval start("shapes")
set multiplot layout 1,2 title "Most frequent winner and its median efficiency (%) over experts and hidden size"
set offsets graph 0.15, graph 0.15, graph 0.2, graph 0.12
set xlabel "experts on this rank"
set ylabel "hidden size"
do for [o in "up down"] {
    set title o." GEMM"
    if (o eq "up") { unset key } else { set key inside right top }
    plot for [i = 1:words(families)] data."/shapes.dat" \
        using (strcol(1) eq o && strcol(4) eq word(families, i) ? $2 : NaN):3 \
        with points pt shape(i) ps 1.6 lc rgb colour(i) title word(families, i) noenhanced, \
        data."/shapes.dat" using (strcol(1) eq o ? $2 : NaN):3:(sprintf("%.0f", $5)) with labels offset 0,1 tc rgb "#202020" notitle
}
unset multiplot
