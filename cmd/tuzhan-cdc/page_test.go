package main

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/status"
)

// onPort gives the rig's server a port that stays the same from start to start.
func (r *rig) onPort(mappings, more string) {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.server = fmt.Sprintf("{listen: %q%s}", l.Addr(), more)
	if err := l.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.write(mappings, "delivery: {backoff: {initial: 50ms, max: 200ms}}")
}

// node is the selector of a mapping's or endpoint's node on the page.
func node(kind, name string) string { return fmt.Sprintf(`[data-%s=%q]`, kind, name) }

// TestPageShowsTheTruth: what the page says is what was committed, what the platform has applied and what the state holds. An outage shows as an alarm, with what
// waits, and goes away. A connector that has died shows, and so does its successor, without a reload of the page.
func TestPageShowsTheTruth(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.onPort(crmMappings, "")
	r.start()
	b := openPage(t, r.address(), look{})
	b.has("#state", "Streaming")
	r.db.Exec(t, `INSERT INTO crm.orders(order_no, phone, goods, amount, status, paid_at) SELECT 'N-' || i, '138' || 10000000 + i, '咖啡', 12.5, 'paid', now() FROM generate_series(1, 40) i`,
		`INSERT INTO crm.orders(order_no, phone, goods, amount, status) SELECT 'O-' || i, '138' || 10000000 + i, '咖啡', 12.5, 'new' FROM generate_series(1, 7) i`,
		`INSERT INTO crm.member_groups SELECT '138' || 10000000 + i, '会员' FROM generate_series(1, 3) i`)
	r.settled()
	b.has(node("mapping", "order-paid"), "40 delivered")
	b.has(node("mapping", "order-points"), "40 delivered")
	b.has(node("mapping", "member-groups"), "3 delivered")
	if n := r.sim.Count(platformsim.Event); n != 40 {
		t.Errorf("the platform has %d events", n)
	}
	b.has("#tables li:nth-child(1)", "47 changes")
	b.has("#tables li:nth-child(2)", "3 changes")
	b.has("#verdict", "All is well")
	requests := r.sim.Stats().Endpoints[platformsim.Point].Requests
	b.has(node("endpoint", "point"), fmt.Sprintf("%d requests", requests))
	var s status.Snapshot
	if _, body := r.get("/status.json"); json.Unmarshal([]byte(body), &s) != nil || s.Checkpoint == nil {
		t.Fatal(body)
	}
	for _, m := range s.Mappings {
		if want := map[string][2]uint64{"order-paid": {47, 40}, "order-points": {47, 40}, "member-groups": {3, 3}}[m.Name]; m.Changes != want[0] || m.Records != want[1] || m.Delivered != want[1] {
			t.Errorf("%s: %d changes, %d records, %d delivered, want %d", m.Name, m.Changes, m.Records, m.Delivered, want)
		}
	}
	b.has("#facts", s.Slot.Name+" · reserved")
	b.has("#facts", "Checkpoint written")
	b.until(`document.querySelector('[data-curve=lag] .line').getAttribute("d").length > 0`)
	b.has("#waits", "No mapping is held")
	b.has("#none", "No dead letters")
	b.accessible()

	r.sim.Down(platformsim.DownUnavailable)
	r.db.Exec(t, `INSERT INTO crm.member_groups SELECT '139' || 10000000 + i, '新客' FROM generate_series(1, 5) i`)
	b.has(`[data-alarm="delivery/groupRelation"]`, "Group relations do not reach the platform")
	b.has(`[data-alarm="delivery/groupRelation"] .cure`, "nothing to do here")
	b.has(node("endpoint", "groupRelation"), "down for")
	b.has(node("mapping", "member-groups"), "5 pending")
	b.until(`document.querySelector("#ribbons .down")`)
	b.has("#verdict", "1 alarm needs a look")
	r.sim.Up()
	b.until(`document.querySelectorAll("#alarms li").length === 0`)
	b.has(node("mapping", "member-groups"), "8 delivered")
	b.until(`!document.querySelector("#ribbons .down") && !document.querySelector('.node .chip.wait')`)
	b.has("#verdict", "All is well")

	r.settled() // nothing comes again
	r.proc.kill()
	b.has("#lost", "does not answer since")
	b.has("#state", "Lost")
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('13600000000', '新客')`)
	r.start()
	b.until(`document.getElementById("lost").hidden`)
	b.has("#state", "Streaming")
	b.has(node("mapping", "member-groups"), "1 delivered")
	b.clean("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")
}

// accessible checks what a screen reader needs: names of all that can be used, landmarks, one heading of the first level and none left out, texts that are read out when
// they come.
func (b *browser) accessible() {
	b.t.Helper()
	for what, expression := range map[string]string{
		"controls without a name": `[...document.querySelectorAll("button, select, input, a, meter, [tabindex='0']")].filter(e => e.getClientRects().length &&
			!(e.innerText?.trim() || e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.labels?.length)).map(e => e.outerHTML)`,
		"ids that are there twice": `[...document.querySelectorAll("[id]")].map(e => e.id).filter((id, i, all) => all.indexOf(id) !== i)`,
		"headings out of order":    `[...document.querySelectorAll("h1, h2, h3, h4")].map(e => +e.tagName[1]).flatMap((n, i, all) => n - (all[i - 1] ?? 0) > 1 ? [i] : [])`,
		"what is missing": `["h1", "header", "main", "footer", "[role=search]", "#alarms[aria-live=polite]", "#lost[role=alert]", "table th[scope=col]", "a.skip[href='#main']"]
			.filter(s => document.querySelectorAll(s).length === 0)`,
	} {
		if found := eval[[]any](b, expression); len(found) > 0 {
			b.t.Errorf("%s: %v", what, found)
		}
	}
}

// letterRow is the selector of a dead letter's row.
func letterRow(l status.Letter) string { return fmt.Sprintf(`tr[data-letter="%d"]`, l.ID) }

func details(l status.Letter) string { return fmt.Sprintf(`tr[data-details="%d"]`, l.ID) }

// TestPageDeadLetters: letters come by themselves, are filtered, found by what their payload holds, and shown with personal data masked until asked. A
// click on retry sends one again, and it closes. Drop asks, and so does the retry of a point that is uncertain, by typing. All of it goes by keyboard too.
func TestPageDeadLetters(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.onPort(crmMappings, "")
	r.start()
	b := openPage(t, r.address(), look{})
	b.has("#none", "No dead letters")
	rejects := r.inject(platformsim.Fault{Endpoint: platformsim.Event, Match: "N-1", Count: -1, Action: platformsim.AnswerCode, Code: "100001", Msg: "用户 13812345678 已停用"})
	r.inject(platformsim.Fault{Endpoint: platformsim.Point, Match: "N-2", Action: platformsim.ApplyThenCut})
	r.db.Exec(t, `INSERT INTO crm.orders(order_no, phone, goods, amount, status, paid_at) VALUES ('N-1', '13812345678', '王小姐的咖啡', 12.5, 'paid', now())`,
		`INSERT INTO crm.orders(order_no, phone, goods, amount, status) VALUES ('N-2', '13887654321', '茶', 3, 'paid')`,
		`INSERT INTO crm.orders(order_no, phone, goods, amount, status) VALUES ('N-3', NULL, '茶', 3, 'paid')`)
	b.until(`document.querySelectorAll("#letters tr[data-letter]").length === 4`)
	letters := r.openLetters(4)
	of := func(class, kind string) status.Letter {
		i := slices.IndexFunc(letters, func(l status.Letter) bool { return string(l.Class) == class && l.Kind == kind })
		if i < 0 {
			t.Fatalf("no letter %s %s in %+v", class, kind, letters)
		}
		return letters[i]
	}
	rejected, uncertain, null := of("rejected", "event"), of("uncertain", "point"), of("mapping", "point")
	b.has("#counts", "mapping 2 · rejected 1 · uncertain 1 · failing 0")

	// Masked, until asked.
	b.click(letterRow(rejected) + " .expand")
	b.has(details(rejected), "138****5678")
	b.has(details(rejected), "code 100001")
	if text := b.text("body"); strings.Contains(text, "13812345678") {
		t.Error("the phone is shown unasked")
	}
	b.click(details(rejected) + ` [data-do=unmask]`)
	b.has(details(rejected)+" pre", "13812345678")
	b.click(details(rejected) + ` [data-do=mask]`)
	b.until(fmt.Sprintf(`!document.querySelector(%q).innerText.includes("13812345678")`, details(rejected)))

	// Filtered, and found by what the payload holds.
	b.do(chromedp.SendKeys("#filter [name=text]", "13812345678"))
	b.until(`document.querySelectorAll("#letters tr[data-letter]").length === 1 && document.querySelector("` + strings.ReplaceAll(letterRow(rejected), `"`, `'`) + `")`)
	_ = eval[bool](b, `(document.querySelector("#filter [name=text]").value = "", document.querySelector("#filter [name=class]").value = "mapping", document.querySelector("#filter").dispatchEvent(new Event("input")), true)`)
	b.until(`document.querySelectorAll("#letters tr[data-letter]").length === 2`)
	b.has("#classHelp", "mend the mapping")
	_ = eval[bool](b, `(document.querySelector("#filter [name=class]").value = "", document.querySelector("#filter").dispatchEvent(new Event("input")), true)`)
	b.until(`document.querySelectorAll("#letters tr[data-letter]").length === 4`)

	// Retry by a click: refused first, and the reason shows; then it closes.
	b.click(details(rejected) + ` [data-do=retry]`)
	b.click(`#dialog button[type=submit]`)
	b.has("#said", "sent again")
	b.has(details(rejected), "Last retry")
	r.sim.ClearFaults(rejects)
	b.click(details(rejected) + ` [data-do=retry]`)
	b.click(`#dialog button[type=submit]`)
	b.until(fmt.Sprintf(`!document.querySelector(%q)`, letterRow(rejected)))
	if l := r.letter(rejected.ID); l.Resolution != "delivered" || l.Closed == nil {
		t.Errorf("after a retry: %+v", l)
	}
	b.has("#counts", "rejected 0")

	// Drop asks; by keyboard: the row, its details, the button, the dialog.
	_ = eval[bool](b, fmt.Sprintf(`(document.querySelector(%q).focus(), true)`, letterRow(null)+" .expand"))
	b.keys(kb.Enter)
	b.until(fmt.Sprintf(`document.querySelector(%q)`, details(null)+" [data-do=drop]"))
	b.until(fmt.Sprintf(`document.activeElement === document.querySelector(%q) && document.activeElement.matches(":focus-visible")`, letterRow(null)+" .expand"))
	for range 12 {
		b.keys(kb.Tab)
		if eval[bool](b, `document.activeElement.dataset.do === "drop"`) {
			break
		}
	}
	b.keys(kb.Enter)
	b.has("#dialog", "Drop 1 dead letter?")
	b.keys(kb.Escape)
	b.until(`!document.getElementById("dialog").open`)
	if l := r.letter(null.ID); l.Closed != nil {
		t.Fatalf("dropped without a yes: %+v", l)
	}
	b.until(`document.activeElement.dataset.do === "drop"`)
	b.keys(kb.Enter)
	b.has("#dialog", "Drop 1 dead letter?")
	for range 3 {
		b.keys(kb.Tab)
		if eval[bool](b, `document.activeElement.matches("#dialog [type=submit]")`) {
			break
		}
	}
	b.keys(kb.Enter)
	b.until(fmt.Sprintf(`!document.querySelector(%q)`, letterRow(null)))
	if l := r.letter(null.ID); l.Resolution != "dropped" {
		t.Errorf("after a drop: %+v", l)
	}

	// An uncertain point goes only by typing.
	points := r.sim.Points()["13887654321"]
	b.click(letterRow(uncertain) + " .expand")
	b.click(details(uncertain) + ` [data-do=retry]`)
	b.has("#dialog", "may have applied these points")
	if !eval[bool](b, `document.querySelector("#dialog [type=submit]").disabled`) {
		t.Error("an uncertain point may be sent again without a word")
	}
	b.do(chromedp.SendKeys("#typed", "i checked"))
	b.click(`#dialog button[type=submit]`)
	b.until(fmt.Sprintf(`!document.querySelector(%q)`, letterRow(uncertain)))
	if got := r.sim.Points()["13887654321"]; got != points+3 {
		t.Errorf("%d points, before %d", got, points)
	}
	b.clean()
}

const adminToken = "a-token-that-nobody-guesses"

// TestPageToken: where server.adminToken is set, the page is masked and changes nothing until somebody signs in, and again after signing out. In Chinese and in the dark,
// as the browser asks for; the language that is chosen is remembered.
func TestPageToken(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.onPort(crmMappings, fmt.Sprintf(", adminToken: %s", adminToken))
	r.start()
	b := openPage(t, r.address(), look{language: "zh-CN", dark: true, width: 360, height: 800})
	r.refuses("N-1")
	r.db.Exec(t, `INSERT INTO crm.orders(order_no, phone, amount, status) VALUES ('N-1', '13812345678', 7, 'paid')`)
	b.has("#state", "同步中")
	b.has("#h-flow", "数据流向")
	b.until(`document.querySelectorAll("#letters tr[data-letter]").length === 2`)
	if lang := eval[string](b, `document.documentElement.lang`); lang != "zh-CN" {
		t.Errorf("lang %s", lang)
	}
	if wide := eval[int](b, `document.documentElement.scrollWidth`); wide > 360 {
		t.Errorf("the page is %d wide on a phone of 360", wide)
	}
	if light := eval[float64](b, `getComputedStyle(document.documentElement).backgroundColor.match(/[0-9]+/g).slice(0, 3).reduce((a, c) => a + +c, 0) / 3`); light > 60 {
		t.Errorf("the page is %.0f of 255 light in the dark", light)
	}
	first := r.letters()[1]
	b.click(letterRow(first) + " .expand")
	b.has(details(first), "138****5678")
	if eval[bool](b, `document.querySelector("[data-do=retry], [data-do=drop], [data-do=unmask]") !== null`) {
		t.Error("buttons without a token")
	}
	b.click("#sign")
	b.do(chromedp.SendKeys("#token", "another-token-of-this-length"))
	b.click(`#dialog [type=submit]`)
	b.has("#dialog .wrong", "not server.adminToken")
	b.do(chromedp.SendKeys("#token", adminToken))
	b.click(`#dialog [type=submit]`)
	b.has("#sign", "退出")
	b.click(details(first) + " [data-do=unmask]")
	b.has(details(first)+" pre", "13812345678")
	b.accessible()
	if wide := eval[int](b, `Math.max(document.documentElement.scrollWidth, document.querySelector(".scroll").scrollWidth, document.querySelector(".letter").scrollWidth)`); wide > 360 {
		t.Errorf("with details the page is %d wide on a phone of 360", wide)
	}
	b.click("#sign")
	b.has("#sign", "登录")
	b.until(fmt.Sprintf(`document.querySelector(%q).innerText.includes("138****5678")`, details(first)+" pre"))
	b.click("#language")
	b.has("#h-flow", "The data’s way")
	b.do(chromedp.Reload())
	b.has("#h-flow", "The data’s way")
	b.has("#state", "Streaming")
	b.clean("401")
}

// TestPageResume: a mapping that its brake holds shows, with the reason; the button lets it go, and the page says so.
func TestPageResume(t *testing.T) {
	t.Parallel()
	r := newRig(t, heldSchema, brakeMappings, platformsim.Options{})
	r.onPort(brakeMappings, "")
	r.start()
	b := openPage(t, r.address(), look{})
	r.db.Exec(t, `INSERT INTO crm.visits SELECT i, '138' || i FROM generate_series(1, 50) i`)
	b.has(`[data-wait="held/braked"]`, "more than maxPerMinute")
	b.has(`[data-alarm="held/braked"]`, "Mapping braked is held")
	b.has(`[data-alarm="held/braked"] code`, "resume --mapping braked")
	b.click(`[data-alarm="held/braked"] .copy`)
	b.has("#said", "Copied")
	b.has(node("mapping", "braked"), "held")
	b.has(node("mapping", "free"), "50 delivered")
	b.click(`[data-wait="held/braked"] [data-do=resume]`)
	b.has("#dialog", "Let mapping braked go on?")
	b.click(`#dialog [type=submit]`)
	b.until(`document.querySelectorAll("#alarms li").length === 0 && !document.querySelector("[data-wait='held/braked']")`)
	r.settled()
	if got := r.distinct("c_braked"); len(got) != 50 {
		t.Errorf("%d of 50 were sent", len(got))
	}
	b.clean()
}

// letter asks the program for one dead letter, open or closed.
func (r *rig) letter(id int64) (l status.Letter) {
	r.t.Helper()
	out, errs, code := r.run("deadletters", "show", fmt.Sprint(id), "--output", "json")
	if code != 0 || json.Unmarshal([]byte(out), &l) != nil {
		r.t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	return l
}

// TestPagePause: a pause for too many dead letters shows, with a button that ends it.
func TestPagePause(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.onPort(crmMappings, "")
	r.write(crmMappings, "delivery: {maxDeadLetters: 2, backoff: {initial: 50ms, max: 1h}}") // a trial record would end the pause by itself
	r.start()
	b := openPage(t, r.address(), look{})
	r.refuses("N-")
	r.db.Exec(t, `INSERT INTO crm.orders(order_no, phone, amount, status) SELECT 'N-' || i, '138' || 10000000 + i, 7, 'paid' FROM generate_series(1, 3) i`)
	b.has("#state", "Delivery paused")
	b.has(`[data-alarm="delivery/deadletters"]`, "too many dead letters are open")
	b.has(`[data-wait=paused]`, "Delivery is paused")
	r.sim.ClearFaults()
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('13900000000', '新客')`)
	b.click(`[data-alarm="delivery/deadletters"] [data-do=resume]`)
	b.has("#dialog", "Resume delivery?")
	b.click(`#dialog [type=submit]`)
	b.until(`document.querySelectorAll("#alarms li").length === 0 && !document.querySelector("[data-wait=paused]")`)
	b.has(node("mapping", "member-groups"), "1 delivered")
	b.has("#state", "Streaming")
	b.clean()
}
