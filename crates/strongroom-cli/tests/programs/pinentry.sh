#!/bin/sh
# A pinentry that knows the passphrase: $HOME/passphrase. When it is asked the second
# time it says so in $HOME/reached and waits for $HOME/go, so that a test can look at
# an agent that holds the first answer.
echo "OK ready"
while read -r command rest; do
    case "$command" in
    GETPIN)
        if [ -e "$HOME/once" ]; then
            : >"$HOME/reached"
            while [ ! -e "$HOME/go" ]; do sleep 0.1; done
        fi
        : >"$HOME/once"
        echo "D $(cat "$HOME/passphrase")"
        echo OK
        ;;
    BYE)
        echo OK
        exit 0
        ;;
    *) echo OK ;;
    esac
done
