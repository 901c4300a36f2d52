# Completion of qx-node for bash: `qx-node complete` says what there is to choose from.
# Goes to /usr/share/bash-completion/completions/qx-node.
# shellcheck shell=bash

_qx_node() {
    local line=${COMP_LINE:0:COMP_POINT} words=() word='' blanks at
    # bash cuts words at : and = as well. What no blank is between is one word.
    for ((at = 0; at <= COMP_CWORD; at++)); do
        blanks=${line%%[![:space:]]*}
        line=${line#"$blanks"}
        word=${COMP_WORDS[at]}
        # The last one ends at the cursor.
        ((${#word} <= ${#line})) || word=$line
        line=${line#"$word"}
        if [[ $at -eq 0 || -n $blanks ]]; then
            words+=("$word")
        else
            words[-1]+=$word
        fi
    done
    local typed=${words[-1]} kept
    # What it puts in the place of the word begins behind the last of these.
    case $word in
        *[!:=]*) kept=${typed%"$word"} ;;
        *) kept=$typed ;;
    esac

    local offers=() paths='' offer
    while IFS=$'\t' read -r offer _; do
        case $offer in
            :files) paths=-f ;;
            :dirs) paths=-d ;;
            *) offers+=("$offer") ;;
        esac
    done < <(qx-node complete "${words[@]:1}" 2>/dev/null)

    COMPREPLY=()
    local from='' path
    [[ $typed == --*=* ]] && from=${typed%%=*}=
    # With nothing to add, and with quotes, it is bash's own affair, where it knows where the path begins.
    if [[ -n $paths && $kept == "$from"* && (${#offers[@]} -eq 0 || $typed == *[\\\'\"]*) ]]; then
        case $paths in
            -f) compopt -o default ;;
            -d) compopt -o dirnames ;;
        esac
        return
    fi
    if [[ -n $paths ]]; then
        while IFS= read -r path; do
            [[ -d ${path/#\~\//"$HOME/"} ]] && path+=/
            offers+=("$from$path")
        done < <(compgen "$paths" -- "${typed#"$from"}")
    fi
    for offer in "${offers[@]}"; do
        printf -v offer '%q' "${offer#"$kept"}"
        COMPREPLY+=("${offer/#\\~\//\~/}")
    done
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[:/] ]]; then
        compopt -o nospace
    fi
}

complete -F _qx_node qx-node
