import { InvalidInput, type JsonValue } from '@gpu-service/worker'
import { isList, isObject, type JsonObject } from './json.ts'

const ANYWHERE = ['title', 'description', '$schema', '$defs']
const SIMPLE_TYPES = ['string', 'number', 'integer', 'boolean', 'null']
const FORMATS = ['date-time', 'time', 'date']
/** Beside `type`, by its value. */
const OF_TYPE: Readonly<Record<string, readonly string[]>> = {
  object: ['properties', 'required', 'additionalProperties', 'minProperties', 'maxProperties'],
  array: ['items', 'prefixItems', 'minItems', 'maxItems'],
  string: ['minLength', 'maxLength', 'format'],
}

/**
 * Gives the schema where the engine can hold a text to all of it; throws `InvalidInput` where not. The engine itself passes over what it does not
 * know, and takes what it does not understand for `null`.
 */
export function checkedSchema(schema: JsonValue): JsonObject {
  if (!isObject(schema)) throw new InvalidInput('`json_schema` must be an object')
  const { $defs = {} } = schema
  if (!isObject($defs)) throw new InvalidInput('`json_schema.$defs` must be an object')
  const definitions = $defs
  check(schema, 'json_schema')
  for (const [name, definition] of Object.entries($defs)) check(definition, `json_schema.$defs.${name}`)
  return schema

  function check(node: JsonValue, place: string): void {
    if (!isObject(node)) throw new InvalidInput(`\`${place}\` must be an object`)
    const known = [...ANYWHERE, ...keywordsOf(node, place)]
    const unknown = Object.keys(node).find((key) => !known.includes(key))
    if (unknown !== undefined) {
      throw new InvalidInput(
        `\`${place}.${unknown}\`: nothing can hold a text to that; known here are ${known.join(', ')}`,
      )
    }
    checkParts(node, place)
  }

  function checkParts(
    { oneOf, prefixItems, properties, items, additionalProperties }: JsonObject,
    place: string,
  ): void {
    const lists = { oneOf, prefixItems }
    for (const [key, list] of Object.entries(lists)) {
      if (list === undefined) continue
      if (!isList(list) || list.length === 0)
        throw new InvalidInput(`\`${place}.${key}\` must be a list, and not empty`)
      for (const [index, part] of list.entries()) check(part, `${place}.${key}[${index}]`)
    }
    if (properties !== undefined) {
      if (!isObject(properties)) throw new InvalidInput(`\`${place}.properties\` must be an object`)
      for (const [name, part] of Object.entries(properties)) check(part, `${place}.properties.${name}`)
    }
    if (items !== undefined) check(items, `${place}.items`)
    if (additionalProperties !== undefined && typeof additionalProperties !== 'boolean')
      check(additionalProperties, `${place}.additionalProperties`)
  }

  function keywordsOf(node: JsonObject, place: string): readonly string[] {
    const { type, enum: values, $ref, format } = node
    if (values !== undefined) {
      if (!isList(values) || values.length === 0)
        throw new InvalidInput(`\`${place}.enum\` must be a list, and not empty`)
      return ['enum', 'type']
    }
    if ('const' in node) return ['const', 'type']
    if ('oneOf' in node) return ['oneOf']
    if ($ref !== undefined) {
      const name = typeof $ref === 'string' ? /^#\/\$defs\/(.+)$/.exec($ref)?.[1] : undefined
      if (name === undefined || !Object.hasOwn(definitions, name))
        throw new InvalidInput(`\`${place}.$ref\` must name one of \`json_schema.$defs\`, as #/$defs/name`)
      return ['$ref']
    }
    if (format !== undefined && !(typeof format === 'string' && FORMATS.includes(format)))
      throw new InvalidInput(`\`${place}.format\` must be one of ${FORMATS.join(', ')}`)
    if (isList(type) && type.length > 0 && type.every((one) => SIMPLE_TYPES.includes(one as string)))
      return ['type']
    if (typeof type === 'string' && (type in OF_TYPE || SIMPLE_TYPES.includes(type)))
      return ['type', ...(OF_TYPE[type] ?? [])]
    throw new InvalidInput(
      `\`${place}\` must have one of type, enum, const, oneOf and $ref; type must be one that JSON Schema has`,
    )
  }
}
