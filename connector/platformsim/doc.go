// Package platformsim is a strict stand-in for the Tuzhan platform's HTTP API, for tests, benchmarks and the demo.
//
// It speaks the contract of the platform's API pages and takes nothing that they don't clearly allow: a wrong type, an unknown field, a missing
// value, 501 items or a stale token are refused as the platform would, with a business code and without a word about which item was
// at fault beyond what msg says. It imports only the standard library and shares nothing with the connector: one misreading of
// the API must not pass its own tests.
//
// sim.go takes the requests, json.go and strict.go read them, records.go knows the contract's tables, token.go issues tokens, faults.go breaks
// things on command, ledger.go remembers what was applied, and admin.go shows all that under /_sim/.
//
// Where the pages say nothing, the simulator decides so:
//   - null is refused everywhere: a field without a value is left out.
//   - The values in eventargs are strings and numbers; the keys in ext are the five that the page lists.
//   - A negative point is refused: one path increases, the other decreases.
//   - time and timestamp must look like milliseconds: from 1e11 (March 1973) to below 1e14 (the year 5138).
//   - In an exact group relation the identity that identityType names must be there. Between group names stands exactly one comma.
//   - timestamp of the open API may be any, unless Options.ClockSkew says how far from now; a nonce may come again.
//   - A repeated event uuid or relateBizCode is applied again: no page says that repeats are dropped.
package platformsim
