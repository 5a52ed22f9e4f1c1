package config

import (
	"strconv"
	"strings"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// entry is a key that a block may have, what it means, and what reads its value. A block knows the keys of its entries and no others, and JSON Schema and
// reference are made of the same entries: none can be known and not read, and none be read and not described.
type entry struct {
	strict.Key
	read func(strict.Node)
}

// value is how a key's value is read, what it may be, and the default.
type value struct {
	strict.Shape
	def  string
	read func(strict.Node)
}

func key(name string, v value, doc string) entry {
	return entry{strict.Key{Name: name, Shape: v.Shape, Default: v.def, Doc: doc}, v.read}
}

// or gives the entry with a word for its default.
func (e entry) or(def string) entry {
	e.Default = def
	return e
}

func (e entry) required() entry {
	e.Required = true
	return e
}

// nested is a block within a block.
func nested(entries []entry, read func(strict.Node), oneOf ...string) value {
	return value{Shape: mapShape(entries, oneOf...), read: read}
}

// atMostOne gives a block of which some keys exclude each other.
func (v value) atMostOne(keys ...string) value {
	v.AtMostOne = keys
	return v
}

func mapShape(entries []entry, oneOf ...string) strict.Shape {
	s := strict.Shape{Type: strict.MapType, OneOf: oneOf}
	for _, e := range entries {
		s.Keys = append(s.Keys, e.Key)
	}
	return s
}

// set stores a value where it could be read, and else leaves the default.
func set[T any](target *T) func(T, bool) {
	return func(v T, ok bool) {
		if ok {
			*target = v
		}
	}
}

// what names the value where its type says too little.
func (v value) what(name string) value {
	v.What = name
	return v
}

// boolean reads true or false.
func boolean(target *bool) value {
	return value{Shape: strict.Shape{Type: strict.BoolType}, def: strconv.FormatBool(*target), read: func(n strict.Node) { set(target)(n.Bool()) }}
}

// enum reads one of some words.
func enum(target *string, words ...string) value {
	v := value{Shape: strict.Shape{Type: strict.TextType, Enum: words}, read: func(n strict.Node) { set(target)(n.Enum(words...)) }}
	if target != nil {
		v.def = *target
	}
	return v
}

// text reads a text that check has nothing to say against: check gives what is wrong, and a hint.
func (l *loader) text(target *string, check func(string) (text, hint string)) value {
	return value{Shape: strict.Shape{Type: strict.TextType}, def: *target, read: func(n strict.Node) {
		v, ok := n.Text()
		if !ok {
			return
		}
		if text, hint := check(v); text != "" {
			l.ps.AddHint(n, hint, "%s: %s", n.Key(), text)
			return
		}
		*target = v
	}}
}

func (l *loader) count(target *int, most int64) value {
	return value{Shape: strict.Shape{Type: strict.WholeType, Least: 1, Most: most}, def: strconv.Itoa(*target), read: func(n strict.Node) {
		i, ok := n.Int(1, most)
		set(target)(int(i), ok)
	}}
}

func (l *loader) size(target *int64, least, most int64) value {
	return value{Shape: strict.Shape{Type: strict.SizeType}, def: sizeText(*target), read: func(n strict.Node) {
		i, ok := n.Size()
		if ok && (i < least || i > most) {
			bound := "at least " + sizeText(least)
			if i > most {
				bound = "at most " + sizeText(most)
			}
			n.Problem("%s: want %s, got %s", n.Key(), bound, n.Raw())
			ok = false
		}
		set(target)(i, ok)
	}}
}

func (l *loader) bytes(target *int, least, most int64) value {
	i := int64(*target)
	v := l.size(&i, least, most)
	read := v.read
	v.read = func(n strict.Node) {
		read(n)
		*target = int(i)
	}
	return v
}

// sizeText writes a size that is a whole number of its unit.
func sizeText(n int64) string {
	for i, unit := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if size := int64(1) << (40 - 10*i); n >= size && n%size == 0 {
			return strconv.FormatInt(n/size, 10) + unit
		}
	}
	return strconv.FormatInt(n, 10)
}

// durationText writes a duration as the file does: 90d, 15m, 200ms.
func durationText(d time.Duration) string {
	const day = 24 * time.Hour
	if d > 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	text := d.String()
	text = strings.TrimSuffix(text, "0s")
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	if text == "" || !strings.ContainsAny(text[len(text)-1:], "hms") { // 30s lost its end
		return d.String()
	}
	return text
}

func (l *loader) duration(target *time.Duration) value {
	return value{Shape: strict.Shape{Type: strict.DurationType}, def: durationText(*target), read: func(n strict.Node) {
		d, ok := n.Duration()
		if ok && d == 0 {
			n.Problem("%s: want more than 0", n.Key())
			ok = false
		}
		set(target)(d, ok)
	}}
}

// secret reads a secret that stands in the file or in an environment variable; what names it.
func (l *loader) secret(target *Secret, what string) value {
	if what == "" {
		what = "text"
	}
	return value{Shape: strict.Shape{Type: strict.TextType, What: what}, read: func(n strict.Node) {
		v, ok := n.Text()
		switch {
		case !ok:
		case v == "":
			n.Problem("%s is empty", n.Key())
		case strings.ContainsAny(v, "\r\n\x00"):
			n.Problem("%s has more than one line", n.Key())
		default:
			*target = NewSecret(v)
		}
	}}
}

// secretFile reads a secret from the file that the value names.
func (l *loader) secretFile(target *Secret) value {
	return value{Shape: strict.Shape{Type: strict.TextType, What: "path"}, read: func(n strict.Node) {
		path, ok := n.Text()
		if !ok {
			return
		}
		if path == "" {
			n.Problem("%s is empty", n.Key())
			return
		}
		path = l.besides(path)
		v, err := readSecret(path)
		if err != nil {
			n.Problem("%s: %v", n.Key(), err)
			return
		}
		*target = Secret{value: &v, file: path}
	}}
}
