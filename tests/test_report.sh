#!/usr/bin/env bash
# moe-tune report: one file that needs nothing beside itself, its numbers those of `show`, its commands ones that run; and
# a browser opens it without a complaint and sorts its tables.
. "$(dirname "$0")/lib.sh"
export TMPDIR=$WORK/tmp # other programs' folders are none of ours
mkdir "$TMPDIR"

small_sweep --db small.db >/dev/null 2>err || fail "sweep: $(tail -n 3 err)"
# So small, everything is in the processor's cache, and may seem faster than the device.
python3 -c 'import sqlite3; db = sqlite3.connect("small.db"); db.execute("UPDATE trials SET efficiency = min(efficiency, 0.9)"); db.commit()'
line() { echo "{\"name\":\"$1\",\"rows\":64,\"skew\":\"$2\",\"op\":\"up\",\"peer\":\"<b>&\",\"time_us\":$3,\"layout\":\"nk\"}"; }
{ line small/a balanced 1e6; line small/b hot 1e-3; } >theirs.jsonl
expect 0 "" "$MOE" report --db small.db --peers theirs.jsonl --out page.html
is "it says what it wrote" "$(cat out)" "page.html"

# Well formed, of one file: nothing is fetched.
cat >check.py <<'PY'
import html.parser, re, sys
text = open(sys.argv[1]).read()
void = {"meta", "link", "br", "input", "wbr"}
class Check(html.parser.HTMLParser):
    stack, ids, refs, codes, rows, cells = [], [], [], [], 0, []
    table = None
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if "id" in attrs: self.ids.append(attrs["id"])
        for name in ("src", "href", "xlink:href", "action", "data"):
            if attrs.get(name, "#").startswith("#"): self.refs += [attrs[name][1:]] if name in attrs else []
            elif attrs[name] != "data:,": print("refers to", attrs[name])
        if tag == "table": self.table = attrs["id"]
        if tag == "tr" and self.table == "winners": self.rows += 1
        if tag not in void: self.stack.append(tag)
        if tag == "code": self.codes.append("")
    def handle_startendtag(self, tag, attrs): self.handle_starttag(tag, attrs); self.stack.pop()
    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag: print("ends", tag, "at", self.getpos())
    def handle_data(self, data):
        if self.stack and self.stack[-1] == "code": self.codes[-1] += data
c = Check()
c.feed(text)
if c.stack: print("open:", c.stack)
for i in sorted(set(c.ids)):
    if c.ids.count(i) > 1: print("twice:", i)
for r in c.refs:
    if r not in c.ids: print("no", r)
for url in set(re.findall(r"https?://[^\"' <]*", text)) - {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}: print("url", url)
if re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", text): print("fetches")
open("rows", "w").write(str(c.rows - 1))
open("compares", "w").write("".join(x + "\n" for x in c.codes if x.startswith("moe-tune compare ")))
open("again", "w").write(next(x for x in c.codes if x.startswith("echo ")))
PY
is "a page of one file" "$(python3 check.py page.html)" ""
is "a row a winner" "$(cat rows)" "$("$MOE" show --db small.db --format csv | tail -n +2 | wc -l)"
time_us=$("$MOE" show --db small.db --format csv | python3 -c 'import csv,sys; print(next(csv.DictReader(sys.stdin))["time_us"])')
holds "a time as show prints it" page.html ">$time_us<"
holds "its run" page.html '<a href="#run-1">run 1</a>'
holds "the sweep's command" page.html "moe-tune sweep "
holds "and its options" page.html "--device host --families host_blas"
holds "a peer's name is text" page.html "&lt;b&gt;&amp;"
grep -q '<b>&' page.html && fail "a peer's name is markup"
holds "peers: slower at one of two" page.html "slower at 1 of 2"
holds "the command that made it" page.html "moe-tune report --db small.db --peers theirs.jsonl --out page.html"

# The first winner's command measures it again.
sed "s|moe-tune bench|'$MOE' bench --rounds 3|" again >again.sh
bash again.sh >again.out 2>again.err || fail "$(cat again.sh): $(cat again.err)"
holds "measured again" again.out '"hit":"asked"'

# Of several devices one: the page's commands name it.
python3 - <<'PY'
import shutil, sqlite3
shutil.copy("small.db", "other.db")
db = sqlite3.connect("other.db")
db.execute("UPDATE devices SET name = 'Other ' || name, key = replace(key, 'name=', 'name=Other ')")
db.execute("UPDATE runs SET uid = 'x' || uid") # another machine's
db.commit()
PY
expect 0 "" "$MOE" merge --db "two cards.db" small.db other.db
expect 2 "several devices" "$MOE" report --db "two cards.db" --out two.html
expect 0 "" "$MOE" report --db "two cards.db" --device Other --peers theirs.jsonl --out two.html
is "a page of one of two devices" "$(python3 check.py two.html)" ""
holds "its pictures' commands" two.html "moe-tune plot roofline --db &#39;two cards.db&#39; --device Other"
holds "its tables' commands" two.html "moe-tune show --db &#39;two cards.db&#39; --device Other --format csv"
holds "its winners' commands" two.html "moe-tune show --db &#39;two cards.db&#39; --device Other --why small/a/64/balanced"
# Times of another device are no comparison.
{ echo '{"device":"A card"}'; cat theirs.jsonl; line small/a balanced 5 | sed 's/<b>&/moe-tune/'; } >card.jsonl
expect 2 "card.jsonl is of 'A card', not of" "$MOE" report --db small.db --bench card.jsonl --out two.html
expect 2 "card.jsonl is of 'A card', not of" "$MOE" report --db small.db --peers card.jsonl --out two.html

# Ours of a bench, peers of two files: each has a command that compares.
{ line small/a balanced 20; line small/b hot 20; } | sed 's/<b>&/moe-tune/' >"our bench.jsonl"
sed 's/<b>&/another/' theirs.jsonl >others.jsonl
expect 0 "" "$MOE" report --db small.db --bench "our bench.jsonl" --peers theirs.jsonl --peers others.jsonl --out peers.html
is "a page with peers" "$(python3 check.py peers.html)" ""
is "a command a file of peers" "$(wc -l <compares)" 2
sed "s|^moe-tune compare|'$MOE' compare|" compares | bash -e >compared 2>&1 || fail "$(cat compares): $(cat compared)"
holds "the first's peer" compared "<b>&"
holds "the second's peer" compared "another"

# A device's name is text, in the page and on the way to it; a path is one word of a command.
cp small.db "quoted name.db"
python3 -c 'import sqlite3; d = sqlite3.connect("quoted name.db"); d.execute("UPDATE devices SET name = ?", ("A \"card\" <1>",)); d.commit()'
expect 0 "" "$MOE" report --db "quoted name.db" --peers theirs.jsonl --out quoted.html
is "a page of quotes" "$(python3 check.py quoted.html)" ""
holds "its device" quoted.html "moe-tune on A &quot;card&quot; &lt;1&gt;"
holds "its commands" quoted.html "moe-tune show --db &#39;quoted name.db&#39;</code>"

# A path may be no UTF-8, a page is.
cp small.db $'byte\xff.db'
expect 0 "" "$MOE" report --db $'byte\xff.db' --out byte.html
is "a page of a byte" "$(python3 check.py byte.html)" ""
holds "its commands" byte.html $'--db &#39;byte\xef\xbf\xbd.db&#39;'

expect 1 "nothing.db" "$MOE" report --db nothing.db
expect 1 "nobody" "$MOE" report --db small.db --out nobody/page.html
echo '{"name":1}' >bad.jsonl
expect 2 "bad.jsonl" "$MOE" report --db small.db --peers bad.jsonl --out page2.html
is "nothing half written" "$(ls page2.html 2>/dev/null)" ""
# One picture that the database has no rates for is missing, and no other.
cp small.db unfitted.db
python3 -c 'import sqlite3; db = sqlite3.connect("unfitted.db"); db.execute("DELETE FROM cost_models"); db.commit()'
expect 0 "" "$MOE" report --db unfitted.db --out unfitted.html
if command -v gnuplot >/dev/null; then
    holds "the page says why" unfitted.html "unfitted.db: no rates of"
    is "the other pictures" "$(grep -o '<figure>' unfitted.html | wc -l)" 3 # roofline, efficiency, winners
fi
# Of winners that are faster than the device no share of it is claimed.
cp small.db doubtful.db
python3 -c 'import sqlite3; db = sqlite3.connect("doubtful.db"); db.execute("UPDATE trials SET efficiency = 3.7889"); db.commit()'
expect 0 "moe-tune: doubtful.db: efficiency of up up to 379 %: the ceilings were disturbed or the working set fits a cache" \
    "$MOE" report --db doubtful.db --out doubtful.html
is "it is said once" "$(wc -l <err)" 1
is "a page that doubts" "$(python3 check.py doubtful.html)" ""
holds "its card" doubtful.html "<b>unknown</b>efficiency of up, 2 points, which seems up to 379 %: the ceilings were disturbed"
is "a claim" "$(grep -c "of what the device can do" doubtful.html)" 0

# Without gnuplot there are no pictures, and the page says so.
mkdir none
SEVERAL_LINES=1 expect 0 "has no pictures: gnuplot is not here" env PATH="$WORK/none" "$MOE" report --db small.db --out bare.html
holds "a page without pictures" bare.html "No pictures: gnuplot is not here"
is "a bare page is one too" "$(python3 check.py bare.html)" ""

# A browser.
browser=
for name in chromium chromium-browser google-chrome google-chrome-stable; do
    [ -n "$browser" ] || browser=$(command -v "$name" || true)
done
if [ -z "$browser" ]; then
    echo "no Chromium: the page was not opened in a browser (apt install chromium)"
    finish
    exit
fi
# browse OPTIONS... FILE: no sandbox, as tests may run as root in a container.
browse() {
    for _ in 1 2; do # it may hang when it starts on a busy machine
        timeout 150 "$browser" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir="$WORK/profile" \
            --hide-scrollbars --enable-logging=stderr "$@" >browsed 2>browser.err && { cat browsed; return; }
    done
    return 1
}
# Errors are caught from before the page's own script on; then the time column is sorted up and down and a word filtered.
python3 - <<'PY'
text = open("page.html").read()
first = '<script>window.errors = []; addEventListener("error", e => errors.push(String(e.message)));</script>'
last = '''<script>addEventListener("load", () => {
  const table = document.getElementById("winners"), times = () => [...table.tBodies[0].rows].map(r => Number(r.cells[6].dataset.v));
  const button = table.tHead.rows[0].cells[6].querySelector("button"), up = (button.click(), times()), down = (button.click(), times());
  const filter = document.getElementById("winners-filter"); filter.value = "small/b"; filter.dispatchEvent(new Event("input"));
  const shown = [...table.tBodies[0].rows].filter(r => !r.hidden).length;
  const sorted = v => v.every((x, i) => i === 0 || v[i - 1] <= x);
  document.body.dataset.result = JSON.stringify({ errors, up: sorted(up), down: sorted(down.reverse()), differ: new Set(up).size > 1, shown, pictures: document.querySelectorAll("figure svg").length });
});</script>'''
open("probe.html", "w").write(text.replace("<style>", first + "<style>", 1).replace("</body>", last + "</body>", 1))
PY
browse --dump-dom "file://$WORK/probe.html" >dom || fail "the browser failed: $(tail -n 3 browser.err)"
result=$(python3 -c 'import re,html; m = re.search(r"data-result=\"([^\"]*)\"", open("dom").read()); print(html.unescape(m.group(1)) if m else "none")')
pictures=$(command -v gnuplot >/dev/null && echo 5 || echo 0)
winners=$("$MOE" show --db small.db --format csv | grep -c small/b)
is "in a browser" "$result" "{\"errors\":[],\"up\":true,\"down\":true,\"differ\":true,\"shown\":$winners,\"pictures\":$pictures}"
browse --screenshot="$WORK/page.png" --window-size=1280,2000 "file://$WORK/page.html" >/dev/null || fail "no screenshot: $(tail -n 3 browser.err)"
is "the console is silent" "$(grep -c CONSOLE browser.err)" 0
is "a screenshot" "$(head -c 8 page.png | od -An -tx1 | tr -d ' \n')" 89504e470d0a1a0a
[ -n "${MOET_REPORT_SCREENSHOT:-}" ] && cp page.png "$MOET_REPORT_SCREENSHOT"
finish
