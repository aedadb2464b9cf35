#!/bin/sh
# conf.sh ALLCONFIG KCONFIG...: writes .config, without the symbols that have no prompt or whose dependency is not set.
all=$1; shift
awk '
    FILENAME != ARGV[ARGC - 1] && $1 == "config" { symbol = $2 }
    FILENAME != ARGV[ARGC - 1] && $1 ~ /^(bool|int)$/ && NF > 1 { known[symbol] = 1 }
    FILENAME != ARGV[ARGC - 1] && $1 == "depends" { needs[symbol] = $3 }
    FILENAME != ARGV[ARGC - 1] && $1 == "oops" { print FILENAME ":" FNR ": syntax error" > "/dev/stderr"; failed = 1; exit 1 }
    FILENAME == ARGV[ARGC - 1] && split($0, part, "=") == 2 { sub("CONFIG_", "", part[1]); wanted[part[1]] = part[2] }
    END {
        if (failed) exit 1
        for (symbol in wanted)
            if (symbol in known && (!(symbol in needs) || wanted[needs[symbol]] == "y"))
                print "CONFIG_" symbol "=" wanted[symbol]
    }' "$@" "$all" > .config
