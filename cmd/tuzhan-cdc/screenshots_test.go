package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
)

const shopSchema = `
CREATE SCHEMA crm;
CREATE TABLE crm.members (member_id bigserial PRIMARY KEY, phone varchar(20), openid text, name text NOT NULL, city text NOT NULL, level text NOT NULL DEFAULT '普通会员');
CREATE TABLE crm.orders (order_no varchar(32) PRIMARY KEY, phone varchar(20), goods text NOT NULL, amount numeric(12,2), status text NOT NULL, paid_at timestamptz);
CREATE TABLE crm.member_groups (phone varchar(20) NOT NULL, group_name text NOT NULL, PRIMARY KEY (phone, group_name));
CREATE TABLE crm.store_visits (visit_id bigserial PRIMARY KEY, openid text, store text NOT NULL, at timestamptz NOT NULL DEFAULT now());
ALTER TABLE crm.members REPLICA IDENTITY FULL;
ALTER TABLE crm.orders REPLICA IDENTITY FULL;
ALTER TABLE crm.member_groups REPLICA IDENTITY FULL;`

const shopMappings = `
mappings:
  - name: order-paid
    table: crm.orders
    on: [insert, update]
    when: new.status == "已付款" && old?.status != "已付款"
    event:
      publicParams: {matchingType: 1}
      eventKey: c_buy
      time: ${{ paid_at }}
      identities: [{identityType: phone, identityValue: "${{ phone }}"}]
      eventargs: {c_order: "${{ order_no }}", c_goods: "${{ goods }}", c_price: "${{ amount }}", title: 下单}
  - name: order-points
    table: crm.orders
    on: [insert, update]
    when: new.status == "已付款" && old?.status != "已付款"
    point:
      point: ${{ int(floor(amount)) }}
      remark: 订单 ${{ order_no }} 积分
      phoneList: [{phone: "${{ phone }}", isVerify: "1"}]
      ext: {strategyName: order}
  - name: member-level-up
    table: crm.members
    on: [update]
    when: new.level != old.level
    event:
      publicParams: {matchingType: 1}
      eventKey: c_level
      identities: [{identityType: phone, identityValue: "${{ phone }}"}]
      eventargs: {c_level: "${{ level }}", c_name: "${{ name }}", title: 会员升级}
  - name: store-visit
    table: crm.store_visits
    on: [insert]
    event:
      publicParams: {matchingType: 1}
      eventKey: c_visit
      time: ${{ at }}
      identities: [{identityType: openid, identityValue: "${{ openid }}"}]
      eventargs: {c_store: "${{ store }}", title: 到店}
  - name: member-groups
    table: crm.member_groups
    on: [insert, update, delete]
    onChange: replace
    groupRelation:
      publicParams: {isMatching: true, matchingType: 2, identifyWay: 1}
      phone: ${{ phone }}
      groups: ${{ group_name }}
`

// shop writes into the CRM as a busy chain of shops does, until ctx ends.
func shop(ctx context.Context, r *rig) {
	goods := []string{"燕麦拿铁", "美式咖啡", "抹茶蛋糕", "手冲壶", "挂耳咖啡礼盒", "冷萃"}
	stores := []string{"上海静安店", "北京三里屯店", "广州天河店", "成都太古里店"}
	groups := []string{"新客", "高价值", "咖啡爱好者", "沉睡唤醒"}
	dice := rand.New(rand.NewPCG(7, 7))
	phone := func() string { return fmt.Sprintf("13%09d", 800000000+dice.IntN(400)) }
	conn := r.db.Conn(r.t)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		busy := 3
		if i/90%4 == 2 {
			busy = 14 // a promotion
		}
		var sql strings.Builder
		for j := range 1 + dice.IntN(busy) {
			fmt.Fprintf(&sql, "INSERT INTO crm.orders VALUES ('N%06d-%d', '%s', '%s', %d.%02d, '已付款', now());", i, j, phone(), goods[dice.IntN(len(goods))], 18+dice.IntN(300), dice.IntN(100))
		}
		if dice.IntN(3) == 0 {
			fmt.Fprintf(&sql, "INSERT INTO crm.store_visits (openid, store) VALUES ('oX3d0%023d', '%s');", dice.IntN(500), stores[dice.IntN(len(stores))])
		}
		if dice.IntN(6) == 0 {
			fmt.Fprintf(&sql, "INSERT INTO crm.member_groups VALUES ('%s', '%s') ON CONFLICT DO NOTHING;", phone(), groups[dice.IntN(len(groups))])
		}
		if dice.IntN(12) == 0 {
			fmt.Fprintf(&sql, "UPDATE crm.members SET level = CASE level WHEN '普通会员' THEN '银卡会员' WHEN '银卡会员' THEN '金卡会员' ELSE '普通会员' END WHERE member_id = %d;", 1+dice.IntN(300))
		}
		if _, err := conn.Exec(ctx, sql.String()); err != nil {
			return
		}
	}
}

// fewerColours writes a picture with 256 of its colours: a page has few, and the file is a third as large.
func fewerColours(t *testing.T, picture []byte) []byte {
	t.Helper()
	full, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		t.Fatal(err)
	}
	count := map[color.RGBA]int{}
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(full.At(x, y)).(color.RGBA) }
	for y := full.Bounds().Min.Y; y < full.Bounds().Max.Y; y++ {
		for x := full.Bounds().Min.X; x < full.Bounds().Max.X; x++ {
			count[at(x, y)]++
		}
	}
	most := slices.SortedFunc(maps.Keys(count), func(a, b color.RGBA) int { return cmp.Compare(count[b], count[a]) })
	var colours color.Palette
	far := func(a, b uint8) int { return (int(a) - int(b)) * (int(a) - int(b)) }
	for _, c := range most { // no two that look the same, so that a rare one finds its place
		if len(colours) < 256 && !slices.ContainsFunc(colours, func(have color.Color) bool {
			h := have.(color.RGBA)
			return far(h.R, c.R)+far(h.G, c.G)+far(h.B, c.B) < 100
		}) {
			colours = append(colours, c)
		}
	}
	nearest := map[color.RGBA]uint8{}
	small := image.NewPaletted(full.Bounds(), colours)
	for y := full.Bounds().Min.Y; y < full.Bounds().Max.Y; y++ {
		for x := full.Bounds().Min.X; x < full.Bounds().Max.X; x++ {
			c := at(x, y)
			i, ok := nearest[c]
			if !ok {
				i = uint8(colours.Index(c))
				nearest[c] = i
			}
			small.SetColorIndex(x, y, i)
		}
	}
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, small); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestScreenshots takes the pictures that the README shows, of a running connector: make screenshots.
func TestScreenshots(t *testing.T) {
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		t.Skip("SCREENSHOTS names the folder: make screenshots")
	}
	r := newRig(t, shopSchema, shopMappings, platformsim.Options{})
	r.db.Exec(t, `INSERT INTO crm.members (phone, openid, name, city) SELECT '13' || 800000000 + i, 'oX3d0' || lpad(i::text, 23, '0'),
		(ARRAY['王','李','张','刘','陈'])[1 + i % 5] || (ARRAY['伟','芳','娜','敏','静'])[1 + i / 5 % 5], '上海' FROM generate_series(1, 300) i`)
	t.Chdir(filepath.Dir(r.file)) // so that messages name the file as an operator's do
	r.file, r.slot = filepath.Base(r.file), "tuzhan_cdc"
	r.write(shopMappings, "")
	r.start()
	address := r.address()
	r.db.Exec(t, `INSERT INTO crm.store_visits (openid, store) VALUES ('oX3d000000000000000000000001', '上海静安店')`)
	r.settled()
	if _, err := r.sim.Inject(platformsim.Fault{Count: -1, Delay: 20 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); shop(ctx, r) }()
	defer func() { stop(); <-done }()
	run := 175 * time.Second
	if s := os.Getenv("SCREENSHOTS_AFTER"); s != "" {
		var err error
		if run, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	desk, night, phone := look{width: 1280, height: 900}, look{width: 1280, height: 900, dark: true}, look{width: 360, height: 800, phone: true}
	shoot := func(name string, l look, prepare func(*browser)) {
		t.Helper()
		b := openPage(t, address, l)
		b.until(`document.querySelectorAll("#mappings .node").length === 5 && document.querySelector(".curve .line").getAttribute("d")`)
		b.until(`document.querySelector("#over").innerText.match(/[0-9]/)`)
		if prepare != nil {
			prepare(b)
		}
		full := chromedp.FullScreenshot(100)
		if l.phone {
			full = chromedp.CaptureScreenshot()
		}
		picture, err := chromedp.Run(b.ctx, full)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".png"), fewerColours(t, picture), 0o644); err != nil {
			t.Fatal(err)
		}
		b.clean()
		b.close()
	}
	time.Sleep(run) // the curves are of real time
	shoot("healthy", desk, nil)
	shoot("healthy-dark", night, nil)
	shoot("healthy-phone", phone, nil)

	r.sim.ClearFaults()
	if _, err := r.sim.Inject(platformsim.Fault{Endpoint: platformsim.Event, Count: -1, Action: platformsim.AnswerStatus, Status: 503}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(run / 6)
	shoot("outage", desk, nil)
	shoot("outage-dark", night, nil)
	shoot("outage-phone", phone, nil)
	shoot("chinese-phone", look{width: 360, height: 800, phone: true, dark: true, language: "zh-CN"}, nil)
	r.sim.ClearFaults()

	for _, f := range []platformsim.Fault{
		{Endpoint: platformsim.Event, Count: -1, Match: "停用", Action: platformsim.AnswerCode, Code: "500100", Msg: "用户 13812345678 已停用"},
		{Endpoint: platformsim.Point, Count: -1, Match: "13800005678", Action: platformsim.ApplyThenCut},
	} {
		if _, err := r.sim.Inject(f); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	<-done
	r.db.Exec(t, `INSERT INTO crm.orders VALUES ('N900001', '13812345678', '停用测试', 58, '已付款', now())`,
		`INSERT INTO crm.orders VALUES ('N900002', '13800005678', '冷萃', 128, '已付款', now())`,
		`INSERT INTO crm.orders VALUES ('N900003', NULL, '手冲壶', 199, '已付款', now())`)
	letters := func(b *browser) {
		b.until(`document.querySelectorAll("#letters tbody tr[data-letter]").length >= 4`)
		b.click(`#letters tr[data-letter] .expand`)
		b.until(`document.querySelector(".payload pre")`)
		b.do(chromedp.ScrollIntoView("#h-letters"))
		_ = eval[bool](b, `(document.querySelector("#h-letters").scrollIntoView(), true)`)
	}
	shoot("deadletters", desk, letters)
	shoot("deadletters-dark", night, letters)
	shoot("deadletters-phone", phone, letters)
	desk.language = "zh-CN"
	shoot("chinese", desk, letters)
}
