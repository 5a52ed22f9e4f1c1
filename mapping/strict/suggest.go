package strict

import "strings"

// Suggest gives the known name that is nearest to name: by case, by a few letters that are wrong, missing, extra or swapped, or by one
// that the other begins with. It gives "" where none is near.
func Suggest(name string, known []string) string {
	best, bestCost := "", 0
	for _, k := range known {
		if k == name {
			continue
		}
		cost := 2 * distance(strings.ToLower(name), strings.ToLower(k))
		if plain(name) == plain(k) {
			cost = 1
		}
		limit := 2 * max(1, min(len([]rune(name)), len([]rune(k)))/3)
		if cost <= limit && (best == "" || cost < bestCost) {
			best, bestCost = k, cost
		}
	}
	if best != "" {
		return best
	}
	for _, k := range known {
		a, b := plain(name), plain(k)
		if len(a) >= 3 && strings.HasPrefix(b, a) || len(b) >= 3 && strings.HasPrefix(a, b) {
			return k
		}
	}
	return ""
}

// plain takes away what people spell differently: base_url, base-url, baseURL.
func plain(s string) string {
	return strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(s))
}

// distance is the number of letters to change, add, take away or swap with their neighbour (optimal string alignment).
func distance(s, t string) int {
	a, b := []rune(s), []rune(t)
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
