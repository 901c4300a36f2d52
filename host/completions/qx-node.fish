# Completion of qx-node for fish: `qx-node complete` says what there is to choose from.
# Goes to /usr/share/fish/vendor_completions.d/qx-node.fish.

function __qx_node_complete
    set -l words (commandline -opc)
    set -l typed (commandline -ct)
    for offer in (qx-node complete $words[2..-1] "$typed" 2>/dev/null)
        # Behind `--option=` is where a path begins.
        set -l head (string match -r -- '^--[^=]*=' "$typed")
        set -l tail (string replace -r -- '^--[^=]*=' '' "$typed")
        switch $offer
            case ':files'
                string join \n -- "$head"(__fish_complete_path "$tail")
            case ':dirs'
                string join \n -- "$head"(__fish_complete_directories "$tail")
            case '*'
                printf '%s\n' $offer
        end
    end
end

complete -c qx-node -f -a '(__qx_node_complete)'
