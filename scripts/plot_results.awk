# From `moe-tune show --trials --format csv`: the best time of each family on each workload, and the winner.
#   best_<family>.dat       op experts hidden rows_per_expert max_over_mean efficiency_pct
#   winners.dat             op family rows_per_expert max_over_mean efficiency_pct
#   shapes.dat              op experts hidden family median_efficiency_pct      (family that wins most often there)
#   families.txt            one family a line

# RFC 4180 fields of a line into f[1..n]; values here never hold line breaks.
function split_csv(line, f,    n, c, i, quoted) {
    n = 1; f[1] = ""; quoted = 0
    for (i = 1; i <= length(line); i++) {
        c = substr(line, i, 1)
        if (c == "\"") {
            if (quoted && substr(line, i + 1, 1) == "\"") { f[n] = f[n] c; i++ } else quoted = !quoted
        } else if (c == "," && !quoted) f[++n] = ""
        else f[n] = f[n] c
    }
    return n
}
function member(key, name,    parts, pair, i, n) {
    n = split(key, parts, ",")
    for (i = 1; i <= n; i++) { split(parts[i], pair, "="); if (pair[1] == name) return pair[2] }
    return ""
}
function median(list, n,    i, j, t) {
    for (i = 2; i <= n; i++) for (j = i; j > 1 && list[j] < list[j - 1]; j--) { t = list[j]; list[j] = list[j - 1]; list[j - 1] = t }
    return list[int((n + 1) / 2)]
}
{ sub(/\r$/, "") }
NR == 1 { n = split_csv($0, f); for (i = 1; i <= n; i++) column[f[i]] = i; next }
{
    split_csv($0, f)
    if (f[column["status"]] != "ok" || f[column["efficiency_pct"]] == "") next
    split(f[column["config"]], name, ":"); family = name[1]
    point = f[column["problem"]] SUBSEP f[column["counts"]]
    time = f[column["time_us"]] + 0; efficiency = f[column["efficiency_pct"]] + 0
    families[family] = 1
    if (!(point in rows)) {
        rows[point] = f[column["rows"]]; experts[point] = f[column["experts"]]; skew[point] = f[column["max_over_mean"]]
        op[point] = member(f[column["problem"]], "op"); hidden[point] = member(f[column["problem"]], "hidden")
    }
    key = point SUBSEP family
    if (!(key in best) || time < best[key]) { best[key] = time; best_efficiency[key] = efficiency }
    # The columns "wins" names the kinds (any, device_counts) that this trial won; "any" is the overall winner.
    if (f[column["wins"]] ~ /any/) { winner[point] = family; winner_efficiency[point] = efficiency }
}
END {
    for (family in families) {
        print family > (dir "/families.txt")
        for (point in rows) {
            key = point SUBSEP family
            if (key in best)
                print op[point], experts[point], hidden[point], rows[point] / experts[point], skew[point], best_efficiency[key] > (dir "/best_" family ".dat")
        }
    }
    for (point in winner) {
        print op[point], winner[point], rows[point] / experts[point], skew[point], winner_efficiency[point] > (dir "/winners.dat")
        shape = op[point] " " experts[point] " " hidden[point]
        shapes[shape] = 1
        wins[shape, winner[point]]++
        values[shape, ++count[shape]] = winner_efficiency[point]
    }
    for (shape in shapes) {
        most = 0
        for (family in families) if (wins[shape, family] > most) { most = wins[shape, family]; champion = family }
        for (i = 1; i <= count[shape]; i++) list[i] = values[shape, i]
        print shape, champion, median(list, count[shape]) > (dir "/shapes.dat")
    }
}
