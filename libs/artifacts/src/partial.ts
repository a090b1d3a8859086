/** Ends the name of a file that is not whole yet. */
export const PARTIAL = '.partial'
