package config

import (
	"fmt"
	"os"

	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// LoadPart is Load for those who look at the state of a connector whose file has problems: where the blocks state and server have none it gives, beside the error, what
// could be read. Mappings are then not to be relied upon, and Source.DSN may be missing.
func LoadPart(path string, env func(string) (string, bool)) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w (-c names the file)", err)
	}
	cfg := defaults()
	cfg.File = path
	l := &loader{cfg: &cfg, env: env, ps: &strict.Problems{}}
	top := strict.Parse(path, data, env, l.ps)
	l.file(top)
	err = l.ps.Err()
	if err != nil && (!top.IsMap() || l.wrongIn(top, "state", "server")) {
		return nil, err
	}
	return l.cfg, err
}

// wrongIn reports whether a problem lies in one of the blocks of the file.
func (l *loader) wrongIn(top strict.Node, names ...string) bool {
	pairs := top.Pairs()
	for i, p := range pairs {
		for _, name := range names {
			if p.Key.Raw() != name {
				continue
			}
			for _, problem := range l.ps.All() {
				behind := i+1 < len(pairs) && problem.Line >= pairs[i+1].Key.Line()
				if problem.File == l.cfg.File && problem.Line >= p.Key.Line() && !behind {
					return true
				}
			}
		}
	}
	return false
}
