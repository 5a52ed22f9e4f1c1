package postgres

import (
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
