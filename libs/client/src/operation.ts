/** What the schema's scalar `JSON` holds. */
export type JsonValue =
  string | number | boolean | null | readonly JsonValue[] | { readonly [key: string]: JsonValue }

/** A GraphQL operation that knows what it takes and gives. Those in `operations/*.graphql` are generated as constants of this type. */
export interface Operation<Kind extends 'query' | 'mutation' | 'subscription', Result, Variables> {
  readonly kind: Kind
  readonly name: string
  readonly text: string
  /** Never there: it carries the types. */
  readonly types?: (variables: Variables) => Result
}
