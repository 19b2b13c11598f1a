# Drawn by plot_bits.sh, which sets kind (svg, png), data and out. White: the bits of training; a white ground, so that it
# holds in dark mode, and numbers in the cells, so that it holds in print.
set output out."/bits.".kind
if (kind eq "svg") { set terminal svg size 1100,420 font "Helvetica,13" background rgb "#ffffff" } \
else { set terminal pngcairo size 1650,630 font "Helvetica,14" background rgb "#ffffff" }
set border 3 lc rgb "#404040"
set tics nomirror tc rgb "#202020"
set multiplot title "The expert path by several GEMMs: elements of out that differ from training's"

set origin 0, 0
set size 0.68, 0.95
set xlabel "rows an expert"
set xrange [-0.5:12.5]
set yrange [-0.5:6.5]
set xtics ("1" 0, "2" 1, "4" 2, "8" 3, "16" 4, "32" 5, "64" 6, "128" 7, "256" 8, "512" 9, "1024" 10, "2048" 11, "4096" 12)
set ytics ("fast" 0, "train" 1, "Triton" 2, "DeepGEMM" 3, "grouped\\_mm" 4, "cuBLAS, no split-K" 5, "cuBLAS" 6)
set palette defined (0 "#ffffff", 0.001 "#d7e6f2", 0.1 "#7fb2d6", 1 "#0072b2")
set cbrange [0:0.6]
set cblabel "share of elements"
set format cb "%.1f"
share(v) = v == 0 ? "0" : v < 0.0001 ? sprintf("%.0e", v) : v < 0.01 ? sprintf("%.2f%%", 100 * v) : sprintf("%.0f%%", 100 * v)
plot data."/cells" using 1:2:3 with image notitle, \
     data."/cells" using 1:2:(share($3)) with labels font ",9" tc rgb "#202020" notitle

unset colorbox
set origin 0.68, 0
set size 0.32, 0.95
set logscale x 2
set xrange [0.8:5200]
set xtics auto
set format x "%.0f"
set xtics (1, 8, 64, 512, 4096)
set ytics auto
set yrange [0.8:*]
set grid lc rgb "#d8d8d8" lw 0.6
set ylabel "ratio of times"
set key inside bottom right Left reverse samplen 1.5 tc rgb "#202020"
plot data."/times" using 1:2 with linespoints lc rgb "#d55e00" pt 5 ps 0.7 title "train / fast", \
     data."/times" using 1:3 with linespoints lc rgb "#0072b2" pt 7 ps 0.7 title "best other / train"
unset multiplot
