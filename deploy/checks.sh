# shellcheck shell=bash
# What the tests of these scripts share; they source it.
#   check NAME COMMAND...     says whether the command succeeds, and counts in `failures` when it does not
failures=0
check() {
    local name="$1"
    shift
    if "$@"; then
        echo "ok   $name (at $SECONDS s)"
    else
        echo "FAIL $name (at $SECONDS s)"
        failures=$((failures + 1))
    fi
}
