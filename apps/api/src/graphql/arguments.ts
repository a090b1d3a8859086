import { refusal } from './errors.ts'

/** @throws GraphQLError BAD_USER_INPUT where a stretch of a list is asked for that is empty, too long, or begins before the list does. */
export function checkStretch({ first, after }: { first: number; after?: number }, most: number): void {
  if (first < 1 || first > most) throw refusal('BAD_USER_INPUT', `first must lie between 1 and ${most}.`)
  if (after !== undefined && after < 0) throw refusal('BAD_USER_INPUT', 'after must be at least 0.')
}
