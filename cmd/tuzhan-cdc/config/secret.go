package config

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
)

// Secret is a text that prints as *** wherever it is printed, logged or encoded. The zero Secret is not set. Safe for concurrent use.
type Secret struct {
	// value is behind a pointer, so that printing a struct that hides a Secret in an unexported field, where fmt calls no methods, shows an address.
	value *string
	file  string
}

const masked = "***"

// NewSecret makes a Secret of a text.
func NewSecret(text string) Secret { return Secret{value: &text} }

// IsSet says that the secret is not the zero one.
func (s Secret) IsSet() bool { return s.value != nil }

// Reveal gives the text as it was when the configuration was read; "" where it is not set.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// File is the file that the secret was read from; "" where it stands in the configuration.
func (s Secret) File() string { return s.file }

// Current gives the text as it is now: a secret from a file is read again, since a renewed one stands there first.
func (s Secret) Current() (string, error) {
	if s.file == "" {
		return s.Reveal(), nil
	}
	text, err := readSecret(s.file)
	if err != nil {
		return "", fmt.Errorf("read a secret again: %w", err)
	}
	return text, nil
}

// readSecret reads a file and cuts the newline at its end. Its errors name the file and never what it holds.
func readSecret(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err // names the file
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch {
	case text == "":
		return "", fmt.Errorf("%s is empty", path)
	case strings.ContainsAny(text, "\n\x00"):
		return "", fmt.Errorf("%s has more than one line", path)
	}
	return text, nil
}

// String gives ***.
func (Secret) String() string { return masked }

// GoString gives ***.
func (Secret) GoString() string { return masked }

// Format writes *** for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(masked)) }

// MarshalText gives ***.
func (Secret) MarshalText() ([]byte, error) { return []byte(masked), nil }

// MarshalYAML gives ***.
func (Secret) MarshalYAML() (any, error) { return masked, nil }

// LogValue gives ***.
func (Secret) LogValue() slog.Value { return slog.StringValue(masked) }
