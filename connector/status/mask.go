package status

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// mask hides what is personal in a letter: in the payload what stands in a field that is known for it or looks like it, in the change (a row as it is) all but
// what looks harmless, and in the platform's words what was hidden of the payload, and what looks like it.
func (l *Letter) mask() {
	var m masker
	l.Payload = m.document(l.Payload, false)
	l.Change = m.document(l.Change, true)
	if l.Answer != nil {
		a := *l.Answer
		for _, hidden := range m.hidden {
			a.Msg = strings.ReplaceAll(a.Msg, hidden, maskValue(hidden))
		}
		a.Msg = maskShapes(a.Msg)
		l.Answer = &a
	}
}

// masker masks JSON, and remembers what it has hidden.
type masker struct{ hidden []string }

// document masks a payload, or the rows of a change. What is no JSON is hidden whole.
func (m *masker) document(raw json.RawMessage, change bool) json.RawMessage {
	if len(raw) == 0 {
		return raw
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var out bytes.Buffer
	if err := m.value(d, &out, "", change, !change); err != nil || len(bytes.TrimSpace(raw[d.InputOffset():])) > 0 {
		return json.RawMessage(`"***"`)
	}
	return out.Bytes()
}

// value copies one value, masked. key is the field that it stands in; change: it is a change, of which only new and old are rows; inside: what is masked has
// begun.
func (m *masker) value(d *json.Decoder, out *bytes.Buffer, key string, change, inside bool) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	switch v := t.(type) {
	case json.Delim:
		out.WriteRune(rune(v))
		for i := 0; d.More(); i++ {
			if i > 0 {
				out.WriteByte(',')
			}
			field, within := key, inside
			if v == '{' {
				name, err := d.Token()
				if err != nil {
					return err
				}
				field, _ = name.(string) // names are strings
				within = inside || change && key == "" && (field == "new" || field == "old")
				write(out, field)
				out.WriteByte(':')
			}
			if change && !inside && !within && key == "" && field != rowField {
				field = "" // what a change says of itself
			}
			if err := m.value(d, out, field, change && (inside || key == ""), within); err != nil {
				return err
			}
		}
		end, err := d.Token()
		if err != nil {
			return err
		}
		out.WriteRune(rune(end.(json.Delim)))
	case string:
		switch {
		case inside:
			v = m.text(key, v, change)
		case key == rowField:
			v = "***"
		}
		write(out, v)
	case json.Number:
		if masked := m.text(key, v.String(), false); inside && masked != v.String() {
			write(out, masked)
		} else {
			out.WriteString(v.String())
		}
	default:
		write(out, v)
	}
	return nil
}

// rowField is the field of a change that has the key of its row, as hex. It may be a phone; its columns stand in the row too, masked by their names.
const rowField = "row"

// text masks one value. row: it is a column's, of which nothing says what it is.
func (m *masker) text(key, v string, row bool) string {
	if inner := strings.TrimSpace(v); strings.HasPrefix(inner, "{") && json.Valid([]byte(inner)) { // ext of a point
		return string(m.document(json.RawMessage(inner), false))
	}
	masked := v
	switch {
	case v == "":
	case personal(key), row && !harmless(v) && !ordinary(key):
		masked = maskValue(v)
	default:
		masked = maskShapes(v)
	}
	if masked != v && utf8.RuneCountInString(v) > 2 {
		m.hidden = append(m.hidden, v)
	}
	return masked
}

func write(out *bytes.Buffer, v any) {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // a text, number, truth or null
	out.Truncate(out.Len() - 1)
}

// personalFields are parts of the names of fields and columns that hold personal data, in small letters and without - and _.
var personalFields = []string{"phone", "mobile", "openid", "unionid", "identityvalue", "email", "idcard", "idno", "wechat", "weixin", "address", "realname", "nickname", "username",
	"customername", "membername", "birth", "passport", "手机", "电话", "姓名", "名字", "地址", "身份证", "邮箱", "微信", "生日", "昵称"}

// ordinaryFields are parts of the names of columns that hold nothing personal, whatever it looks like.
var ordinaryFields = []string{"status", "state", "type", "kind", "goods", "product", "sku", "store", "shop", "level", "group", "tag", "category", "channel", "source", "brand",
	"currency", "title", "状态", "类型", "商品", "产品", "门店", "店铺", "等级", "分组", "标签", "分类", "渠道", "品牌"}

func ordinary(field string) bool {
	return slices.ContainsFunc(ordinaryFields, func(p string) bool { return strings.Contains(strings.ToLower(field), p) })
}

func personal(field string) bool {
	field = strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(field))
	if field == "name" || field == "tel" || field == "qq" || field == "addr" {
		return true
	}
	return slices.ContainsFunc(personalFields, func(p string) bool { return strings.Contains(field, p) })
}

var (
	harmlessText = regexp.MustCompile(`^(-?\d{1,9}(\.\d+)?|true|false|t|f|\d{4}-\d\d-\d\d([ T][0-9:.+Z-]*)?|[A-Za-z][A-Za-z0-9_.-]{0,19})$`)
	manyDigits   = regexp.MustCompile(`\d{7}`)
	digits       = regexp.MustCompile(`\d{11,}[Xx]?`)
	spaced       = regexp.MustCompile(`\b1[3-9]\d[ -]\d{4}[ -]\d{4}\b`)
	mobile       = regexp.MustCompile(`^(?:86)?1[3-9]\d{9}$`)
	longNumber   = regexp.MustCompile(`^\d{15,19}[Xx]?$`) // of an identity card or a bank card
	mail         = regexp.MustCompile(`[\w.+-]+@[\w-]+(?:\.[\w-]+)+`)
	words        = regexp.MustCompile(`[A-Za-z0-9_-]+`)
	openID       = regexp.MustCompile(`^o[A-Za-z0-9_-]{27}$`) // WeChat's openid and unionid
)

// harmless reports whether a column's value says nothing of a person by itself: a small number, a time, a word in ASCII.
func harmless(v string) bool {
	return harmlessText.MatchString(v) && !manyDigits.MatchString(strings.Split(v, ".")[0]) || isTime(v)
}

func isTime(v string) bool {
	return len(v) >= 10 && v[4] == '-' && v[7] == '-' && harmlessText.MatchString(v)
}

// maskShapes masks what looks personal within a text.
func maskShapes(v string) string {
	v = mail.ReplaceAllStringFunc(v, maskValue)
	v = words.ReplaceAllStringFunc(v, func(w string) string {
		if openID.MatchString(w) {
			return maskValue(w)
		}
		return w
	})
	v = digits.ReplaceAllStringFunc(v, func(n string) string {
		if mobile.MatchString(n) || longNumber.MatchString(n) {
			return maskValue(n)
		}
		return n
	})
	return spaced.ReplaceAllStringFunc(v, maskValue)
}

// maskValue keeps so much of a value that one can tell two of them apart: 138****5678, o6_b****Jg4E, 王*.
func maskValue(v string) string {
	if name, domain, ok := strings.Cut(v, "@"); ok && mail.MatchString(v) {
		first, _ := utf8.DecodeRuneInString(name)
		return string(first) + "****@" + domain
	}
	runes := []rune(v)
	n := len(runes)
	head, tail := 0, 0
	switch {
	case n >= 16:
		head, tail = 4, 4
	case n >= 10:
		head, tail = 3, 4
	case n >= 6:
		head, tail = 1, 1
	case n >= 2 && unicode.Is(unicode.Han, runes[0]):
		return string(runes[0]) + strings.Repeat("*", n-1)
	default:
		return "***"
	}
	return string(runes[:head]) + "****" + string(runes[n-tail:])
}
